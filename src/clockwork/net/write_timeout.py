"""Detects a peer that does not read.

The bytes that wait for such a peer take memory, and its connection counts towards the limit.

Rules of the file: a peer that takes `MIN_PROGRESS` within each time-out is slow, not stalled. The time for which this
process stood still does not count against the peer: a time-out is `CHECKS` checks, and a late check counts once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork.units import MIB, Bytes

MIN_PROGRESS: Final[Bytes] = MIB
"""Bytes that a peer must take within the time-out, if that many wait."""

CHECKS: Final = 8
"""Number of checks within one time-out."""


class WriteTimeout:
    """Watches one transport while its write buffer is full."""

    __slots__ = ("_before", "_checks", "_every", "_loop", "_on_stalled", "_timer", "_transport")

    def __init__(self, transport: asyncio.WriteTransport, timeout: float, on_stalled: Callable[[], object]) -> None:
        """``timeout`` is in seconds; ``on_stalled`` is called at most once for each `begin`."""
        self._transport = transport
        self._every = timeout / CHECKS
        self._on_stalled = on_stalled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._before: Bytes = 0
        self._checks = 0  #: checks since the peer last made enough progress

    def begin(self) -> None:
        """Start watching: the transport has called ``pause_writing``, or is closing."""
        if self._timer is None:
            self._watch()

    def end(self) -> None:
        """Stop watching: the buffer has drained, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        self._checks, self._before = 0, self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._every, self._check)

    def _check(self) -> None:
        self._timer = None
        self._checks += 1
        if self._transport.get_write_buffer_size() <= self._before - MIN_PROGRESS:
            self._watch()
        elif self._checks < CHECKS:
            self._timer = self._loop.call_later(self._every, self._check)
        else:
            self._on_stalled()
