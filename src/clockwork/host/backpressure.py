"""Limits how many connections are read in one turn while requests arrive faster than the server can refuse them.

Suppose that clients send more requests than the server can refuse. An event loop that reads all requests would then do
nothing else. One poll would report thousands of sockets, and the results of workers would wait until all sockets are
read. So after the server has answered a request of a connection, the server pauses reading from this connection until
the connection's turn comes. Meanwhile, the connection's next requests wait in the kernel, where they cost no processor
time.

Theory of operation. If connections were resumed in the order in which they were paused, every request would wait so
long that it misses its deadline. So the server mostly resumes the connections that were paused last. The next requests
of these connections are recent and can be served in time. To make sure that each connection is answered, the server
also resumes some connections that have waited longest.

No connection is paused unless reading takes too much of the loop's time.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from clockwork.units import MILLISECOND, Nanos

READING: Final[Nanos] = 25 * MILLISECOND
"""Time per turn of the loop that reading may take. If reading takes longer, connections are paused.

Pausing and resuming a connection costs about as much as refusing a request, and a paused client sends its next requests
with little time left. So a low limit turns a load that the server could refuse into one that it cannot. Measured with
``bench_overload.py`` over HTTP at three times the capacity: with 4 ms, 0.05 to 0.24 of the capacity was in time, and
with 25 ms, 0.53. This limit bounds how long results of workers wait.
"""

OLDEST_SHARE: Final = 4
"""Of every four connections that are resumed, one is the connection that has waited longest."""

MIN_BATCH: Final = 16
"""Smallest number of connections that are resumed in each turn."""


class Reader(Protocol):
    """A connection that may be paused."""

    def read_again(self) -> None:
        """Resume reading.

        The method is called once after each `Backpressure.pause`, even if the connection is closed by then.
        """
        ...


class ReadingTime(Protocol):
    """Measures the time spent on reading. `clockwork.net.arrival.Arrivals` implements this interface."""

    reading_took: Nanos
    """Time that reading took in the last turn of the loop."""


class Backpressure:
    """The paused connections of one event loop. Call the methods on the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, arrivals: ReadingTime) -> None:
        """Start with no paused connection."""
        self._loop = loop
        self._arrivals = arrivals
        self._paused: deque[Reader] = deque()
        self._batch = 8 * MIN_BATCH
        self._due = False

    @property
    def is_needed(self) -> bool:
        """Whether a connection should be paused after its request was answered."""
        return bool(self._paused) or self._arrivals.reading_took > READING

    def pause(self, reader: Reader) -> None:
        """Add a connection to the queue of paused connections. The caller has already paused the connection."""
        self._paused.append(reader)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Resume as many connections as the next turn can read.

        The loop polls its sockets between two calls of this method.
        """
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
