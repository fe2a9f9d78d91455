"""Queues requests that were read but not handled yet, so that they do not delay other work of the event loop.

An event loop calls one callback for each socket with new bytes, in any order. If each request was handled at once, a
thousand requests might be handled before the next result of a worker. So requests wait in the inbox after they are
read, and each turn of the loop handles a limited *piece* of this queue. Results, heartbeats, cancels and health checks
do not wait in the inbox. These events are handled between two pieces of the queue.

While few requests arrive, each request is handled as soon as it is read.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from clockwork.clock import Clock
from clockwork.controller.shedding import MAX_URGENT_SLO, PATIENT_INTERVAL, Shedder
from clockwork.units import MILLISECOND, Nanos

PIECE: Final[Nanos] = 4 * MILLISECOND
"""Time that each turn of the loop spends on handling requests.

A refusal waits for one turn. With 5 ms, the p99 of the time to a refusal was up to 12 ms at three times the capacity.
"""

MIN_PIECE: Final = 16
"""Smallest number of requests that are handled in one turn.

The measured time per request includes the time for refusing other requests. Without this minimum, many refusals would
make pieces smaller, and small pieces cost more per request.
"""

Handle: TypeAlias = Callable[[], None]


class Waiting:
    """A request in the inbox. `withdraw` removes it."""

    __slots__ = ("_shedder", "_slo", "handle")

    def __init__(self, shedder: Shedder, handle: Handle, slo: Nanos) -> None:
        self._shedder = shedder
        self._slo = slo
        self.handle: Handle | None = handle
        shedder.queued(slo)

    def withdraw(self) -> bool:
        """Forget the request. Return whether the request was still waiting."""
        return self.take() is not None

    def take(self) -> Handle | None:
        """Remove the request and return its handler. Return None if the request was withdrawn or taken before."""
        handle, self.handle = self.handle, None
        if handle is not None:
            self._shedder.withdrawn(self._slo)
        return handle


class Inbox:
    """The queue of one event loop. Call the methods on the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, flush: Callable[[], None] = lambda: None) -> None:
        """Start with an empty queue.

        ``flush`` sends all messages that wait to be sent. The inbox calls it before and after each piece of the queue,
        so that responses to other requests do not wait for the piece, and actions do not wait for the next piece.
        """
        self.shedder = Shedder()
        self._loop = loop
        self._clock = clock
        self._flush = flush
        self._urgent: deque[Waiting] = deque()
        self._patient: deque[Waiting] = deque()
        self._turn_is_open = False
        self._room = 1  #: number of requests that may still be handled in this turn
        self._turns = 0  #: number of requests taken from the queues, modulo `PATIENT_INTERVAL`

    def put(self, handle: Handle, slo: Nanos) -> Waiting | None:
        """Handle a request at once if this turn may handle one more, and return None. Otherwise, queue the request."""
        if not self._turn_is_open:
            self._open_turn()
        if self._room > 0 and not self.shedder.waiting:
            self._room -= 1
            handle()
            return None
        waiting = Waiting(self.shedder, handle, slo)
        (self._patient if slo > MAX_URGENT_SLO else self._urgent).append(waiting)
        return waiting

    def _open_turn(self) -> None:
        self._turn_is_open = True
        self._room = max(MIN_PIECE, PIECE // self.shedder.cost)
        self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Handle a piece of the queue. The loop polls its sockets between two calls."""
        self._turn_is_open = False
        if not self._urgent and not self._patient:
            return
        self._open_turn()
        self._flush()
        taken = 0
        try:
            while self._room > 0 and (handle := self._take()) is not None:
                self._room -= 1
                taken += 1
                handle()
        finally:  # if a handler raises an error, the remaining handlers must still run
            self.shedder.taken(self._clock.now(), taken)
        self._flush()

    def _take(self) -> Handle | None:
        """Remove the next request and return its handler, or None if no request waits."""
        while self._urgent or self._patient:
            self._turns = (self._turns + 1) % PATIENT_INTERVAL
            patient = self._patient and (not self._turns or not self._urgent)
            handle = (self._patient if patient else self._urgent).popleft().take()
            if handle is not None:
                return handle
        return None
