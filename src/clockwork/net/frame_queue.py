"""Divides the event loop's time fairly among connections.

One read of a connection can return thousands of small frames. While the event loop handles these frames, it serves no
other connection. Therefore, at most `MAX_TURN_MESSAGES` messages or `MAX_TURN_BYTES` bytes of one connection are
handled in one turn. A message that an overloaded server refuses counts as `REFUSAL` of a message. The remaining frames
wait in a `FrameQueue`, and are decoded later. Until they are handled, the connection is not read again, so only the
frames of one read can wait.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.units import MIB, Bytes
from clockwork.wire.frame import Frame

MAX_TURN_MESSAGES: Final = 64
"""Largest number of messages that are handled in one turn for one connection. Handling this number of messages takes a
few milliseconds.
"""

ENDED: Final = 0.0
"""Returned by a handler of frames if the connection has ended."""

MESSAGE: Final = 1.0
"""Returned by a handler of frames if it has handled a message."""

REFUSAL: Final = 1 / 16
"""Returned by a handler of frames if it has only refused a message. Handling a request takes 20 times as long.

If a refusal counted as a whole message, an overloaded server would not read all requests of a turn. The unread requests
would grow old, and the server would refuse them, too.
"""

MAX_TURN_BYTES: Final[Bytes] = 4 * MIB
"""Largest number of bytes that are handled in one turn for one connection.

A longer frame is handled in a turn of its own.
"""


class FrameQueue:
    """The received frames of one connection that wait to be handled.

    ``handle`` handles one frame, and returns `MESSAGE`, `REFUSAL` or `ENDED`. ``set_reading`` pauses and resumes
    reading.
    """

    __slots__ = ("_bytes", "_due", "_handle", "_loop", "_messages", "_set_reading", "_waiting")

    def __init__(self, handle: Callable[[Frame], float], set_reading: Callable[[bool], object]) -> None:
        """Create an empty queue."""
        self._handle = handle
        self._set_reading = set_reading
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Frame] = deque()
        self._messages = 0.0  #: number of messages handled in this turn
        self._bytes: Bytes = 0
        self._due = False  #: whether `_next_turn` is scheduled

    def __len__(self) -> int:
        """Return the number of frames that wait."""
        return len(self._waiting)

    def take(self, frames: list[Frame], *, more: bool) -> None:
        """Handle as many new frames as the limits for this turn allow, and queue the remaining frames.

        ``more`` is true if the read filled its buffer, so that the loop may read the connection again in this turn.
        """
        if self._due:  # frames were already handled in this turn, or older frames wait
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
        """Drop all waiting frames. The connection calls this method when it ends."""
        self._waiting.clear()

    def _work(self) -> None:
        waiting = self._waiting
        while waiting and self._messages < MAX_TURN_MESSAGES and self._bytes < MAX_TURN_BYTES:
            frame = waiting.popleft()
            self._bytes += len(frame[1])
            handled = self._handle(frame)
            self._messages += handled
            if not handled:
                waiting.clear()
        if waiting:
            self._set_reading(False)

    def _next_turn(self) -> None:
        self._due, self._messages, self._bytes = False, 0.0, 0
        if not self._waiting:
            return
        self._due = True
        self._loop.call_soon(self._next_turn)  # scheduled before the work, in case a callback raises an exception
        self._work()
        if not self._waiting:
            self._set_reading(True)
