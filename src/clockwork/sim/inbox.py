"""Queues events while a simulated controller is busy, ordered by their kind.

Theory of operation. A controller whose work takes time handles one event at a time. Events of workers come first,
because they cost little time and make devices available. Cancelled requests and disconnected clients are next. All
other requests follow in order of arrival. An event takes effect at the start of its handling. Then the controller is
busy for the time that the event costs.
"""

from collections import deque
from typing import Final, Protocol

from clockwork.controller.events import ClientLost, ClientRequest, Event, WorkerConnected, WorkerLost, WorkerResult
from clockwork.messages.requests import CancelRequest, InferRequest

MAX_WAITING: Final = 1_000_000
"""Limit of waiting events. A scenario that exceeds this limit shows only overload."""


class Inbox(Protocol):
    """A queue of events."""

    def put(self, event: Event) -> None:
        """Add an event."""

    def take(self) -> Event | None:
        """Remove and return the next event. Return None if the inbox is empty."""

    def __len__(self) -> int: ...


class InboxFullError(Exception):
    """Raised if more than `MAX_WAITING` events would have to wait."""


class ByKind:
    """An `Inbox` that orders events by kind. Events of one kind are taken in the order of their arrival."""

    def __init__(self) -> None:
        """Create an empty inbox."""
        self._queues: tuple[deque[Event], ...] = (deque(), deque(), deque())
        self._count = 0

    def put(self, event: Event) -> None:
        """Add an event.

        Raises:
            InboxFullError: the limit is reached.
        """
        if self._count >= MAX_WAITING:
            raise InboxFullError(f"limit of events that wait reached ({self._count}); lower the load")
        self._count += 1
        self._queues[_kind(event)].append(event)

    def take(self) -> Event | None:
        """Remove and return the next event. Return None if the inbox is empty."""
        for queue in self._queues:
            if queue:
                self._count -= 1
                return queue.popleft()
        return None

    def __len__(self) -> int:
        return self._count


def _kind(event: Event) -> int:
    if isinstance(event, WorkerResult | WorkerConnected | WorkerLost):
        return 0
    if isinstance(event, ClientLost) or (isinstance(event, ClientRequest) and isinstance(event.request, CancelRequest)):
        return 1
    return 2


def is_inference(event: Event) -> bool:
    """Return whether the event is an inference request."""
    return isinstance(event, ClientRequest) and isinstance(event.request, InferRequest)
