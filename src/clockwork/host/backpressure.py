"""Limits how many clients are read at a time when they send more requests than the server can even refuse.

If clients send more requests than the server can refuse, an event loop that reads all of them does nothing else: one
poll reports thousands of sockets, and results of workers wait until all sockets are read. So after a connection has got
its answer, it is not read again until its turn comes. Its next requests wait in the kernel, where they cost nothing.

Theory of operation. With more requests than the server can refuse, a queue in order of arrival would make all of them
wait until none can meet its deadline. So most connections that are read again are those that were paused last: their
next requests are young and can be served. The others are those that have waited longest, so that each is answered.

Rules of the file: a connection waits only while reading takes too much of the loop's time.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from clockwork.units import MILLISECOND, Nanos

READING: Final[Nanos] = 4 * MILLISECOND
"""Time per turn of the loop that reading may take; above it, connections are paused."""

OLDEST_SHARE: Final = 4
"""Every fourth connection that is read again is the one that has waited longest."""

MIN_BATCH: Final = 16
"""Least number of connections that are read again in each turn."""


class Reader(Protocol):
    """A connection that may be paused."""

    def read_again(self) -> None:
        """Resume reading; called once after each `Backpressure.pause`. The connection may have been closed."""
        ...


class ReadingTime(Protocol):
    """Measures the time spent on reading; implemented by `clockwork.net.arrival.Arrivals`."""

    reading_took: Nanos
    """Time that reading took in the last turn of the loop."""


class Backpressure:
    """The paused connections of one event loop; use it on the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, arrivals: ReadingTime) -> None:
        """Start with no paused connection."""
        self._loop = loop
        self._arrivals = arrivals
        self._paused: deque[Reader] = deque()
        self._batch = 8 * MIN_BATCH
        self._due = False

    @property
    def is_needed(self) -> bool:
        """Whether a connection that got its answer should be paused."""
        return bool(self._paused) or self._arrivals.reading_took > READING

    def pause(self, reader: Reader) -> None:
        """Queue a connection, which the caller has paused, to be read again when its turn comes."""
        self._paused.append(reader)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Resume as many connections as the next turn can read. The loop polls between two calls."""
        if self._arrivals.reading_took > READING:
            self._batch = max(MIN_BATCH, self._batch * 4 // 5)
        else:
            self._batch += MIN_BATCH
        for number in range(min(self._batch, len(self._paused))):
            reader = self._paused.popleft() if number % OLDEST_SHARE == 0 else self._paused.pop()
            reader.read_again()
        self._due = bool(self._paused)
        if self._due:
            self._loop.call_soon(self._next_turn)
