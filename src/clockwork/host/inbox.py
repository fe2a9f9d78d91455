"""Requests that were read and not yet taken in, and the order in which the event loop works.

An event loop calls for each socket that has bytes, in any order. If each request were handled when it is read, a
thousand requests would be handled before the next result of a worker, heartbeat or health check. So what is read waits
here, and a piece of it is handled in each turn of the loop: results, heartbeats, cancels and health checks, which do
not wait here, come in between.

While little is read, nothing waits: a request is handled when it is read.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from clockwork.clock import Clock
from clockwork.controller.shedding import Shed, Shedder
from clockwork.units import MILLISECOND, Nanos

PIECE: Final[Nanos] = 5 * MILLISECOND
"""Requests worth this much of the controller's time are handled in one turn of the loop."""

Handle: TypeAlias = Callable[[], None]


class Waiting:
    """A request in the inbox. `withdraw` takes it out."""

    __slots__ = ("_inbox", "handle")

    def __init__(self, inbox: "Inbox", handle: Handle) -> None:
        self._inbox = inbox
        self.handle: Handle | None = handle

    def withdraw(self) -> bool:
        """Forget the request, and return whether it was still waiting."""
        if self.handle is None:
            return False
        self.handle = None
        self._inbox.shedder.withdrawn()
        return True


class Inbox:
    """The queue of one event loop; to be used on its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Start empty."""
        self.shedder = Shedder()
        self._loop = loop
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        self._turn_is_open = False
        self._room = 1  #: requests that may still be handled in this turn

    def refuses(self, arrival: Nanos, slo: Nanos, least: Nanos = 0) -> Shed | None:
        """Return why a request is refused at once, or None; see `Shedder.refuses`."""
        return self.shedder.refuses(self._clock.now(), arrival, slo, least)

    def put(self, handle: Handle) -> Waiting | None:
        """Have a request handled: at once (None is returned) if this turn has room for it, or else in a later turn."""
        if not self._turn_is_open:
            self._open_turn()
        if self._room > 0 and not self._waiting:
            self._room -= 1
            handle()
            return None
        waiting = Waiting(self, handle)
        self._waiting.append(waiting)
        self.shedder.queued()
        return waiting

    def _open_turn(self) -> None:
        self._turn_is_open = True
        self._room = max(1, PIECE // self.shedder.cost)
        self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Handle a piece of what waits. The loop polls its sockets between two calls."""
        self._turn_is_open = False
        if not self._waiting:
            return
        self._open_turn()
        taken = 0
        waiting = self._waiting
        while waiting and self._room > 0:
            handle = waiting.popleft().handle
            if handle is not None:
                self._room -= 1
                taken += 1
                handle()
        self.shedder.taken(self._clock.now(), taken)
