"""Knows which write queues of an event loop have frames to send.

Frames are collected until the end of the loop's turn, so that the frames for a connection take one system call. A host
that begins longer work in a turn sends the collected frames before and after the work with `Outbox.flush`. Otherwise,
these frames would wait until the work is finished.
"""

import asyncio
from collections import deque
from typing import Protocol


class Sender(Protocol):
    """A write queue."""

    def flush_due(self) -> None:
        """Write all queued buffers. The queue is no longer in the outbox."""
        ...


class Outbox:
    """The write queues of one event loop that have frames to send. Call the methods on the thread of the loop."""

    __slots__ = ("_due", "_is_scheduled", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start with no queues."""
        self._loop = loop
        self._due: deque[Sender] = deque()
        self._is_scheduled = False

    def add(self, sender: Sender) -> None:
        """Add a queue that is not in the outbox. The queue is flushed in the next turn of the loop at the latest."""
        self._due.append(sender)
        self._schedule()

    def flush(self) -> None:
        """Flush all queues now."""
        due = self._due
        while due:
            due.popleft().flush_due()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_scheduled = False
        try:
            self.flush()
        finally:
            if self._due:  # a queue raised an exception
                self._schedule()
