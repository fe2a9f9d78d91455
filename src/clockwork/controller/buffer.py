"""Requests that came before serving began: each waits until then, but no longer than its own time-out."""

from collections import deque

from msgspec import Struct

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ClientRequest, Respond
from clockwork.controller.quota import Quota, input_bytes
from clockwork.controller.refusing import refusal
from clockwork.messages.requests import InferRequest, ListModelsRequest
from clockwork.messages.status import Status
from clockwork.units import Bytes, Nanos, show_duration


class _Buffered(Struct, frozen=True):
    arrival: Nanos
    event: ClientRequest


class StartupBuffer:
    """InferRequests and ListModelsRequests in order of arrival. All wait equally long, so the oldest expires first."""

    def __init__(self, config: ControllerConfig) -> None:
        """Empty. `Quota` bounds it."""
        self._config = config
        self._quota = Quota(config)
        self._waiting: deque[_Buffered] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, now: Nanos, event: ClientRequest) -> list[Respond]:
        """Buffer a request, or refuse it if the buffer is full."""
        size = _bytes(event)
        if full := self._quota.refusal(event.client_id, size, shared=event.shared):
            return [_initializing(event, 0, f"the server is starting up: {full}")]
        self._waiting.append(_Buffered(now, event))
        self._quota.add(event.client_id, size)
        return []

    def expire(self, now: Nanos) -> list[Respond]:
        """Answer those whose time-out has come."""
        responses = []
        timeout = self._config.initializing_timeout
        while self._waiting and self._waiting[0].arrival + timeout <= now:
            entry = self._waiting.popleft()
            self._quota.remove(entry.event.client_id, _bytes(entry.event))
            text = f"the server is still starting up, {show_duration(timeout)} after the request came"
            responses.append(_initializing(entry.event, now - entry.arrival, text))
        return responses

    def next_expiry(self) -> Nanos | None:
        """When `expire` has something to do."""
        return self._waiting[0].arrival + self._config.initializing_timeout if self._waiting else None

    def take_all(self) -> list[ClientRequest]:
        """Everything that still waits, in order of arrival."""
        events = [entry.event for entry in self._waiting]
        self._waiting.clear()
        self._quota = Quota(self._config)
        return events

    def cancel(self, client_id: int, request_id: int | None = None) -> None:
        """Forget a client's InferRequest of that id, or all that the client asked."""
        kept = []
        for entry in self._waiting:
            event = entry.event
            mine = event.client_id == client_id
            if mine and (
                request_id is None or (isinstance(event.request, InferRequest) and event.request.id == request_id)
            ):
                self._quota.remove(client_id, _bytes(event))
            else:
                kept.append(entry)
        self._waiting = deque(kept)


def _bytes(event: ClientRequest) -> Bytes:
    return input_bytes(event.request) if isinstance(event.request, InferRequest) else 0


def _initializing(event: ClientRequest, waited: Nanos, text: str) -> Respond:
    assert isinstance(event.request, InferRequest | ListModelsRequest)
    return refusal(event.client_id, event.request, Status.INITIALIZING, text, waited)
