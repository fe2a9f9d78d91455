"""Detects a peer that does not read.

The bytes that wait for such a peer take memory, and its connection counts towards the limit. A peer may be slow, but it
must read `MIN_PROGRESS` bytes within each time-out. A time-out consists of `CHECKS` checks, and a late check counts as
only one check. So if this process stops for a while, the peer does not lose that time.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork.units import MIB, Bytes

MIN_PROGRESS: Final[Bytes] = MIB
"""Number of bytes that a peer must read within the time-out, if that many bytes wait."""

CHECKS: Final = 8
"""Number of checks in one time-out."""


class WriteTimeout:
    """Checks the progress of one transport while its write buffer is full."""

    __slots__ = ("_before", "_checks", "_every", "_loop", "_on_stalled", "_timer", "_transport")

    def __init__(self, transport: asyncio.WriteTransport, timeout: float, on_stalled: Callable[[], object]) -> None:
        """Create a time-out of ``timeout`` seconds.

        ``on_stalled`` is called when the peer has not read enough, at most once after each call of `begin`.
        """
        self._transport = transport
        self._every = timeout / CHECKS
        self._on_stalled = on_stalled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._before: Bytes = 0
        self._checks = 0  #: number of checks since the peer last read enough

    def begin(self) -> None:
        """Start checking the peer's progress.

        Call this method when the write buffer is full, or when the transport is closing.
        """
        if self._timer is None:
            self._watch()

    def end(self) -> None:
        """Stop checking the peer's progress.

        Call this method when the buffer has drained, or when the connection has ended.
        """
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
