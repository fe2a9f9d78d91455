"""Determines when each frame of one connection arrived.

A frame counts as arrived when its first byte arrives. So the time of a slow upload counts towards the request's SLO. A
read may leave bytes in the kernel. If the next turn of the loop reads these bytes, they count as if they had arrived
with the bytes of the earlier read. If the loop sleeps before the next read, or if the next poll does not report the
socket, the earlier read left no bytes.
"""

import asyncio

from clockwork.net.arrival import Arrivals
from clockwork.units import Nanos
from clockwork.wire.frame import Frame


class FrameArrivals:
    """The arrival times of one connection's frames."""

    __slots__ = ("_arrivals", "_began", "_first", "_first_began", "_last", "_turn", "_unread")

    def __init__(self, arrivals: Arrivals) -> None:
        """Start to measure a connection that was accepted in the current turn of the loop."""
        self._arrivals = arrivals
        self._last: Nanos = arrivals.earliest_arrival()  #: when the bytes of the last read arrived
        self._unread = True  #: whether older bytes may still be in the kernel
        self._turn = arrivals.turn  #: turn of the loop in which the last read happened
        self._began: Nanos | None = None  #: when the first byte of the incomplete frame arrived
        self._first: Frame | None = None  #: a complete frame whose first byte was read in an earlier read
        self._first_began: Nanos = 0

    def read(self, transport: asyncio.BaseTransport, now: Nanos, *, filled: bool) -> None:
        """Record that bytes were read at ``now``.

        If the bytes filled the buffer (``filled``), more bytes may follow.
        """
        arrived = self._arrivals.earliest_arrival(transport, now)
        if self._unread and self._arrivals.follows(self._turn):
            arrived = min(arrived, self._last)
        self._last, self._turn, self._unread = arrived, self._arrivals.turn, filled

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
