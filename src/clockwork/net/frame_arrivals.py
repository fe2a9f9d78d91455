"""Determines when each frame of one connection arrived.

A frame counts from the read that brought its first byte, so a request that takes long to upload has used up that time.
A read may leave bytes in the kernel, which are then as old as the bytes that were read. That holds only for the next
turn of the loop: if the loop has slept, or the poll did not report the socket, no bytes were left.
"""

import asyncio

from clockwork.net.arrival import Arrivals
from clockwork.units import Nanos
from clockwork.wire.frame import Frame


class FrameArrivals:
    """The arrival times of one connection's frames."""

    __slots__ = ("_arrivals", "_began", "_first", "_first_began", "_last", "_turn", "_unread")

    def __init__(self, arrivals: Arrivals) -> None:
        """Start with a connection that was made in this turn of the loop."""
        self._arrivals = arrivals
        self._last: Nanos = arrivals.earliest_arrival()  #: arrival of the bytes of the last read
        self._unread = True  #: the kernel may hold bytes that arrived before the last poll
        self._turn = arrivals.turn  #: turn of the last read
        self._began: Nanos | None = None  #: arrival of the first byte of the frame that is not complete
        self._first: Frame | None = None  #: a frame that began in an earlier read than the one that completed it
        self._first_began: Nanos = 0

    def read(self, transport: asyncio.BaseTransport, now: Nanos, *, filled: bool) -> None:
        """Note that bytes were read at ``now``; ``filled``: they filled the buffer, so there may be more."""
        arrived = self._arrivals.earliest_arrival(transport, now)
        if self._unread and self._arrivals.follows(self._turn):
            arrived = min(arrived, self._last)
        self._last, self._turn, self._unread = arrived, self._arrivals.turn, filled

    def parsed(self, frames: list[Frame], *, begun: bool) -> None:
        """Note the frames that the last read completed; ``begun``: another frame has begun and is not complete."""
        if frames:
            self._first = None
            if self._began is not None:
                self._first, self._first_began, self._began = frames[0], self._began, None
        if begun and self._began is None:
            self._began = self._last

    def resumed(self) -> None:
        """Note that the connection was paused and will be read again after the next poll."""
        self._turn, self._unread = self._arrivals.turn, True

    def of(self, frame: Frame) -> Nanos:
        """Return the earliest possible arrival of the first byte of ``frame``; call this exactly once per frame."""
        if frame is not self._first:
            return self._last
        self._first = None  # its payload may be large
        return self._first_began
