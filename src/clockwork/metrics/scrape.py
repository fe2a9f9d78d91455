"""Renders the metrics in steps on the controller's event loop.

`clockwork.stepping` runs the steps, and pauses after each burst of steps, because metrics are not urgent. All counts of
one model are read at one moment, but the counts of different models may be read at different moments. Clients that
scrape at the same time share one rendering for each of the two formats.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from clockwork.controller.description import Description
from clockwork.metrics import models, server, shadows, spans
from clockwork.metrics.family import END, Piece
from clockwork.stepping import BACKGROUND_REST, SharedResult, Stepper
from clockwork.steps import Steps
from clockwork.tracing.tracer import Tracer
from clockwork.units import KIB, Bytes

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Content type of Prometheus' text format, which is used unless the client prefers OpenMetrics."""

OPEN_METRICS_CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""Content type of OpenMetrics."""

PART: Final[Bytes] = 256 * KIB
"""Approximate size of one part of the reply, in bytes."""


class Metrics:
    """Renders the metrics of a controller."""

    def __init__(
        self,
        describe: Callable[[], Description],
        stepper: Stepper,
        histograms: bool = True,
        tracer: Tracer | None = None,
    ) -> None:
        """Create a renderer of metrics.

        Args:
            describe: returns the controller's current state.
            stepper: runs the steps.
            histograms: whether to include a histogram of each model's latencies.
            tracer: traces requests; None if requests are not traced.
        """
        self._describe = describe
        self._histograms = histograms
        self._stepper = stepper
        self._tracer = tracer
        self._plain: SharedResult[Sequence[bytes]] = SharedResult(partial(self._made, False))
        self._open_metrics: SharedResult[Sequence[bytes]] = SharedResult(partial(self._made, True))

    async def text(self, accept: str = "") -> tuple[str, Sequence[bytes]]:
        """Render the metrics, and return the content type and the parts of the text.

        ``accept`` is the value of the header Accept, which decides the format.
        """
        if prefers_open_metrics(accept):
            return OPEN_METRICS_CONTENT_TYPE, await self._open_metrics.get()
        return CONTENT_TYPE, await self._plain.get()

    async def _made(self, open_metrics: bool) -> Sequence[bytes]:
        return await self._stepper.run(self._rendered(open_metrics), rest=BACKGROUND_REST)

    def _rendered(self, open_metrics: bool) -> Steps[Sequence[bytes]]:
        description = self._describe()
        text = _Text(open_metrics)
        for piece in server.pieces(description):
            text.add(piece)
            yield
        if self._tracer is not None:
            for piece in spans.pieces(self._tracer.export):
                text.add(piece)
            yield
        errors = server.PredictionErrors()
        for predictions in list(description.predictions()):  # workers may connect or leave between steps
            errors.add(predictions)
            yield
        for piece in errors.pieces():
            text.add(piece)
            yield
        for piece in shadows.pieces(description.shadows.statuses()):
            text.add(piece)
            yield
        rows = []
        for model, _ in description.served():  # versions may be loaded or unloaded between two steps
            counts, ready = description.counts_of(model), description.can_serve(model)
            rows.append(models.row(model.served_as, counts, ready, model.version))
            yield
        for piece in models.pieces(rows, self._histograms):
            text.add(piece)
            yield
        return text.parts()


def prefers_open_metrics(accept: str) -> bool:
    """Return whether the header Accept rates OpenMetrics at least as high as plain text (RFC 9110, section 12.5.1)."""
    open_metrics = plain = 0.0
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        values = dict(word.replace(" ", "").split("=", 1) for word in parameters if "=" in word)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        if kind == "application/openmetrics-text" and values.get("version", "1.0.0") in ("1.0.0", "0.0.1"):
            open_metrics = max(open_metrics, quality)
        elif kind == "text/plain":
            plain = max(plain, quality)
    return 0 < open_metrics >= plain


class _Text:
    """Encodes pieces of metrics, and joins them into larger parts."""

    def __init__(self, open_metrics: bool) -> None:
        self._open_metrics = open_metrics
        self._parts: list[bytes] = []
        self._pieces: list[bytes] = []
        self._size: Bytes = 0

    def add(self, piece: Piece) -> None:
        text = piece.encode(self._open_metrics)
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= PART:
            self._parts.append(b"".join(self._pieces))
            self._pieces, self._size = [], 0

    def parts(self) -> Sequence[bytes]:
        last = END if self._open_metrics else b""
        return [*self._parts, b"".join([*self._pieces, last])]
