"""What has arrived at a simulated controller that is busy: each event waits for its turn, by kind.

Theory of operation. A controller that takes time for its work handles one event after the other. Events of workers come
first, since they cost little and free devices; then cancels and clients that left; then all other requests, in order of
arrival. The effects of an event happen at the moment when its turn comes; afterwards the controller is busy for the
cost of the event.
"""

from collections import deque
from typing import Final, Protocol

from clockwork.controller.events import ClientLost, ClientRequest, Event, WorkerConnected, WorkerLost, WorkerResult
from clockwork.messages.requests import CancelRequest, InferRequest

MAX_WAITING: Final = 1_000_000
"""Events that wait for one controller; more are a scenario that nobody can learn from."""


class Inbox(Protocol):
    """Where events wait."""

    def put(self, event: Event) -> None:
        """The event waits from now on."""

    def take(self) -> Event | None:
        """The event whose turn it is; None if none waits."""

    def __len__(self) -> int: ...


class InboxFullError(Exception):
    """More than `MAX_WAITING` events wait."""


class ByKind:
    """An `Inbox`: first in, first out within each kind of event."""

    def __init__(self) -> None:
        """Empty."""
        self._queues: tuple[deque[Event], ...] = (deque(), deque(), deque())
        self._count = 0

    def put(self, event: Event) -> None:
        """See `Inbox`.

        Raises:
            InboxFullError: too many wait already.
        """
        if self._count >= MAX_WAITING:
            raise InboxFullError(f"{self._count} events wait for the controller; that is the limit")
        self._count += 1
        self._queues[_kind(event)].append(event)

    def take(self) -> Event | None:
        """See `Inbox`."""
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
    """Whether the event is a request to infer."""
    return isinstance(event, ClientRequest) and isinstance(event.request, InferRequest)
