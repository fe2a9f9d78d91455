"""Divides the event loop's time among connections: a connection that sends a lot must let the others take their turns.

One read can bring thousands of small frames. An event loop that handled all of them at once would serve no other
connection meanwhile. So a connection may handle `MAX_TURN_MESSAGES` messages or `MAX_TURN_BYTES` bytes in one turn. The
other frames wait here, undecoded, and the connection is not read again until they are handled. So no more frames wait
than one read has brought.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.units import MIB, Bytes
from clockwork.wire.frame import Frame

MAX_TURN_MESSAGES: Final = 64
"""Messages of one connection that are handled in one turn: some milliseconds of work."""

MAX_TURN_BYTES: Final[Bytes] = 4 * MIB
"""Bytes of one connection that are handled in one turn; a longer frame is handled alone."""


class FrameQueue:
    """The received frames of one connection that wait to be handled.

    ``handle`` handles one frame and returns whether the connection stays open. ``set_reading`` stops and resumes
    reading.
    """

    __slots__ = ("_bytes", "_due", "_handle", "_loop", "_messages", "_set_reading", "_waiting")

    def __init__(self, handle: Callable[[Frame], bool], set_reading: Callable[[bool], object]) -> None:
        """Start empty."""
        self._handle = handle
        self._set_reading = set_reading
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Frame] = deque()
        self._messages = 0  #: number of messages handled in this turn
        self._bytes: Bytes = 0
        self._due = False  #: whether `_next_turn` is scheduled

    def __len__(self) -> int:
        """Number of frames that wait."""
        return len(self._waiting)

    def take(self, frames: list[Frame], *, more: bool) -> None:
        """Handle new frames, as far as the limits for this turn allow.

        ``more``: the read filled its buffer, so the loop may read the connection again in the same turn.
        """
        if self._due:  # this turn has already handled frames, or older frames wait
            self._waiting.extend(frames)
            self._work()
        elif more or len(frames) > MAX_TURN_MESSAGES:
            self._waiting.extend(frames)
            self._due = True
            self._loop.call_soon(self._next_turn)
            self._work()
        else:
            for frame in frames:
                if not self._handle(frame):
                    break

    def drop(self) -> None:
        """Drop the waiting frames, because the connection has ended."""
        self._waiting.clear()

    def _work(self) -> None:
        waiting = self._waiting
        while waiting and self._messages < MAX_TURN_MESSAGES and self._bytes < MAX_TURN_BYTES:
            frame = waiting.popleft()
            self._messages += 1
            self._bytes += len(frame[1])
            if not self._handle(frame):
                waiting.clear()
        if waiting:
            self._set_reading(False)

    def _next_turn(self) -> None:
        self._due, self._messages, self._bytes = False, 0, 0
        if not self._waiting:
            return
        self._due = True
        self._loop.call_soon(self._next_turn)  # before the work, in case a callback raises
        self._work()
        if not self._waiting:
            self._set_reading(True)
