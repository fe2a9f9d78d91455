"""Notices a peer that does not read what it is sent: what waits for it is memory, and a place among the connections.

Rules of the file: whoever reads `LEAST` in every ``timeout`` is slow, and not stalled.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork.units import MIB, Bytes

LEAST: Final[Bytes] = MIB
"""What a peer has to take in the time, if there is as much."""


class Stalled:
    """Watches one transport while it cannot be written to."""

    __slots__ = ("_before", "_loop", "_on_stalled", "_timeout", "_timer", "_transport")

    def __init__(self, transport: asyncio.WriteTransport, timeout: float, on_stalled: Callable[[], object]) -> None:
        """``timeout`` in seconds; ``on_stalled`` is called once, at the most, for each `begin`."""
        self._transport = transport
        self._timeout = timeout
        self._on_stalled = on_stalled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._before: Bytes = 0

    def begin(self) -> None:
        """Much waits to be sent: the transport has called ``pause_writing``, or is closing."""
        if self._timer is None:
            self._before = self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(self._timeout, self._look)

    def end(self) -> None:
        """Little waits, or the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        before, waiting = self._before, self._transport.get_write_buffer_size()
        if waiting > before - LEAST:
            self._on_stalled()
        else:
            self.begin()
