"""Renders the metrics in steps on the controller's event loop.

`clockwork.stepping` runs the steps and rests after each burst, since no inference waits for metrics. The counts of one
model belong to one moment, but those of another model may belong to another. Clients that scrape at the same time get
the same text.
"""

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from clockwork.controller.description import Description
from clockwork.metrics import models, server
from clockwork.stepping import BACKGROUND_REST, SharedResult, Stepper
from clockwork.steps import Steps
from clockwork.units import KIB, Bytes

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Content type of the text. OpenMetrics is not offered, because it does not allow Triton's names for counters."""

PART: Final[Bytes] = 256 * KIB
"""Bytes of the text in one part of the reply."""


class Metrics:
    """Renders the metrics of a controller."""

    def __init__(self, describe: Callable[[], Description], stepper: Stepper, histograms: bool = True) -> None:
        """``describe`` returns the controller's current state; ``histograms``: include each model's latencies."""
        self._describe = describe
        self._histograms = histograms
        self._stepper = stepper
        self._shared: SharedResult[Sequence[bytes]] = SharedResult(self._made)

    async def text(self) -> Sequence[bytes]:
        """Render the metrics, and return the text in parts."""
        return await self._shared.get()

    async def _made(self) -> Sequence[bytes]:
        return await self._stepper.run(self._rendered(), rest=BACKGROUND_REST)

    def _rendered(self) -> Steps[Sequence[bytes]]:
        description = self._describe()
        text = _Text()
        for piece in server.pieces(description):
            text.add(piece)
            yield
        errors = server.PredictionErrors()
        for predictions in list(description.predictions()):  # workers may connect or leave between steps
            errors.add(predictions)
            yield
        for piece in errors.pieces():
            text.add(piece)
            yield
        rows = []
        for name in description.models():
            rows.append(models.row(name, description.counts_of(name), description.is_ready(name)))
            yield
        for piece in models.pieces(rows, self._histograms):
            text.add(piece)
            yield
        return text.parts()


class _Text:
    """Joins pieces into parts."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._pieces: list[bytes] = []
        self._size: Bytes = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= PART:
            self._parts.append(b"".join(self._pieces))
            self._pieces, self._size = [], 0

    def parts(self) -> Sequence[bytes]:
        return [*self._parts, b"".join(self._pieces)]
