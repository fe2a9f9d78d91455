"""One answer to whoever asks for metrics, made in pieces on the controller's event loop.

Theory of operation. A thread would hold the interpreter's lock for milliseconds at a time while requests wait for it.
So the loop does the work itself, a fraction of a millisecond at a time, and turns to requests for longer than that in
between. Each model's counts are of one moment, not all models' of the same. Those who ask at the same time are given
the same text.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from clockwork.clock import Clock, MonotonicClock
from clockwork.controller.description import Description
from clockwork.metrics import models, server
from clockwork.units import KIB, MICROSECOND, Bytes, Nanos

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Of the text. OpenMetrics is not offered: there, Triton's names would be no counters'."""

AT_ONCE: Final[Nanos] = 300 * MICROSECOND
"""Work after which others have their turn; a piece that has begun is finished."""

REST: Final = 0.001
"""Seconds that belong to others then, at least."""

PART: Final[Bytes] = 256 * KIB
"""Of the text in one part of the answer."""


class Metrics:
    """Renders what ``describe`` tells; ``histograms``: latencies of each model, too."""

    def __init__(self, describe: Callable[[], Description], histograms: bool = True) -> None:
        """Nothing is rendered until `text` is called."""
        self._describe = describe
        self._histograms = histograms
        self._rendering = asyncio.Lock()
        self._text: Sequence[bytes] = ()
        self._begun: Nanos | None = None  #: when that was begun
        self._asking = 0
        self._clock = MonotonicClock()

    async def text(self) -> Sequence[bytes]:
        """The text, in parts; of a moment after this was called."""
        came = self._clock.now()
        self._asking += 1
        try:
            async with self._rendering:
                if self._begun is None or self._begun < came:
                    begun = self._clock.now()
                    self._text = await self._rendered()
                    self._begun = begun
                return self._text
        finally:
            self._asking -= 1
            if not self._asking:  # it may be large
                self._text, self._begun = (), None

    async def _rendered(self) -> Sequence[bytes]:
        said = self._describe()
        turns = _Turns(self._clock)
        text = _Text()
        for piece in server.pieces(said):
            text.add(piece)
            await turns.over()
        errors = server.PredictionErrors()
        for predictions in list(said.predictions()):  # workers come and go meanwhile
            errors.add(predictions)
            await turns.over()
        for piece in errors.pieces():
            text.add(piece)
            await turns.over()
        rows = []
        for name in said.models():
            rows.append(models.row(name, said.counts_of(name), said.is_ready(name)))
            await turns.over()
        for piece in models.pieces(rows, self._histograms):
            text.add(piece)
            await turns.over()
        return text.parts()


class _Turns:
    """Work and rest."""

    def __init__(self, clock: Clock) -> None:  # the event loop's has a resolution of a millisecond
        self._now = clock.now
        self._began = clock.now()

    async def over(self) -> None:
        """Let others have their turn, if this one has lasted long enough."""
        if self._now() - self._began >= AT_ONCE:
            await asyncio.sleep(REST)
            self._began = self._now()


class _Text:
    """Pieces joined into parts."""

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
