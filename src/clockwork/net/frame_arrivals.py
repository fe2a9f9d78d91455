"""Determines when each frame of one connection arrived.

A frame counts as arrived when its first byte arrives. So the time of a slow upload counts towards the request's SLO. A
read may leave bytes in the kernel. If the next turn of the loop reads these bytes, they count as if they had arrived
with the bytes of the earlier read. If the loop sleeps before the next read, or if the next poll does not report the
socket, the earlier read left no bytes.

If a client sends faster than the server reads, the receive window closes, and the client's kernel holds further bytes
back. The server's read opens the window, and the next turn reads the bytes that were held back. They count in the same
way as bytes that the read has left.
"""

import asyncio
from typing import Final

from clockwork.net.arrival import Arrivals
from clockwork.units import KIB, Bytes, Nanos
from clockwork.wire.frame import Frame

MIN_HALF_WINDOW: Final[Bytes] = 32 * KIB
"""The kernel is asked for the receive window only if at least this many bytes were read.

By default, Linux opens a window of at least 64 KiB.
"""


class FrameArrivals:
    """The arrival times of one connection's frames."""

    __slots__ = ("_arrivals", "_began", "_bytes", "_first", "_first_began", "_last", "_turn", "_unread", "_window")

    def __init__(self, arrivals: Arrivals) -> None:
        """Start to measure a connection that was accepted in the current turn of the loop."""
        self._arrivals = arrivals
        self._last: Nanos = arrivals.earliest_arrival()  #: when the bytes of the last read arrived
        self._unread = True  #: whether older bytes may still be in the kernel
        self._turn = arrivals.turn  #: turn of the loop in which the last read happened
        self._bytes: Bytes = 0  #: number of bytes that were read in this turn
        self._window: Bytes = 0  #: largest receive window after the last read of many bytes
        self._began: Nanos | None = None  #: when the first byte of the incomplete frame arrived
        self._first: Frame | None = None  #: a complete frame whose first byte was read in an earlier read
        self._first_began: Nanos = 0

    def read(self, transport: asyncio.BaseTransport, now: Nanos, nbytes: Bytes, *, filled: bool) -> None:
        """Record that ``nbytes`` bytes were read at ``now``.

        If the bytes filled the buffer (``filled``), more bytes may follow.
        """
        arrivals = self._arrivals
        arrived = arrivals.earliest_arrival(transport, now)
        if self._unread and arrivals.follows(self._turn):
            arrived = min(arrived, self._last)
        self._bytes = nbytes + self._bytes if self._turn == arrivals.turn else nbytes
        self._last, self._turn = arrived, arrivals.turn
        self._unread = self._may_have_held_back(transport) or filled

    def _may_have_held_back(self, transport: asyncio.BaseTransport) -> bool:
        """Return whether the peer's kernel may hold bytes back because the receive window was closed before the read.

        The peer's kernel waits if less than one segment of the window is free, and segments of the loopback interface
        have 64 KiB. So a read of half a window is enough. The read itself may have enlarged the window.
        """
        if self._bytes < MIN_HALF_WINDOW:
            return False
        before, self._window = self._window, self._arrivals.max_window(transport)
        return 2 * self._bytes >= min(before, self._window)

    @property
    def last(self) -> Nanos:
        """Earliest time at which the bytes of the last read may have arrived."""
        return self._last

    def parsed(self, frames: list[Frame], *, begun: bool) -> None:
        """Record the frames that the last read completed.

        ``begun`` is true if a further frame has begun but is incomplete.
        """
        if frames:
            self._first = None
            if self._began is not None:
                self._first, self._first_began, self._began = frames[0], self._began, None
        if begun and self._began is None:
            self._began = self._last

    def resumed(self) -> None:
        """Record that reading from the connection was paused and will resume after the next poll."""
        self._turn, self._unread = self._arrivals.turn, True

    def of(self, frame: Frame) -> Nanos:
        """Return the earliest time at which the first byte of ``frame`` may have arrived.

        This method must be called exactly once for each frame.
        """
        if frame is not self._first:
            return self._last
        self._first = None  # frees the frame's payload, which may be large
        return self._first_began
