"""Requests that arrived before the stage SERVING. Each waits until SERVING begins, or until its own time-out."""

from collections import OrderedDict

from msgspec import Struct

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ClientRequest, Respond
from clockwork.controller.quota import Quota, input_bytes
from clockwork.controller.request_table import RequestTable
from clockwork.controller.responses import refusal_response
from clockwork.messages.requests import InferRequest, ListModelsRequest
from clockwork.messages.status import Status
from clockwork.units import Bytes, Nanos, show_duration


class _Buffered(Struct, frozen=True):
    arrival: Nanos
    event: ClientRequest


class StartupBuffer:
    """InferRequests and ListModelsRequests in order of arrival, which is the order in which they expire."""

    def __init__(self, config: ControllerConfig) -> None:
        """Start empty; ``config`` has the limits and the time-out."""
        self._config = config
        self._quota = Quota(config)
        self._waiting: OrderedDict[int, _Buffered] = OrderedDict()  #: by a number that counts requests
        self._numbers: RequestTable[int] = RequestTable()
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, now: Nanos, event: ClientRequest) -> list[Respond]:
        """Buffer a request, or refuse it if the buffer is full."""
        size = _bytes(event)
        if full := self._quota.reason_to_refuse(event.client_id, size, shared=event.shared):
            return [_initializing(event, 0, f"the server is starting up: {full.text}")]
        self._last_number += 1
        self._waiting[self._last_number] = _Buffered(now, event)
        self._numbers.add(event.client_id, event.request.id, self._last_number)
        self._quota.add(event.client_id, size)
        return []

    def expire(self, now: Nanos) -> list[Respond]:
        """Answer the requests whose time-out has passed."""
        responses = []
        timeout = self._config.initializing_timeout
        while (first := next(iter(self._waiting), None)) is not None:
            if self._waiting[first].arrival + timeout > now:
                break
            entry = self._take(first)
            text = f"the server is still starting up {show_duration(timeout)} after the request arrived; retry later"
            responses.append(_initializing(entry.event, now - entry.arrival, text))
        return responses

    def next_expiry(self) -> Nanos | None:
        """Return when the next request times out; None if no request waits."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first.arrival + self._config.initializing_timeout

    def take_all(self) -> list[ClientRequest]:
        """Remove and return all requests, in order of arrival."""
        events = [entry.event for entry in self._waiting.values()]
        self._waiting.clear()
        self._numbers.clear()
        self._quota = Quota(self._config)
        return events

    def cancel(self, client_id: int, request_id: int | None = None) -> None:
        """Forget a client's InferRequest with this id, or all requests of the client."""
        for number in self._numbers.find(client_id, request_id):
            if request_id is None or isinstance(self._waiting[number].event.request, InferRequest):
                self._take(number)

    def _take(self, number: int) -> _Buffered:
        entry = self._waiting.pop(number)
        event = entry.event
        self._quota.remove(event.client_id, _bytes(event))
        self._numbers.remove(event.client_id, event.request.id, number)
        return entry


def _bytes(event: ClientRequest) -> Bytes:
    return input_bytes(event.request) if isinstance(event.request, InferRequest) else 0


def _initializing(event: ClientRequest, waited: Nanos, text: str) -> Respond:
    assert isinstance(event.request, InferRequest | ListModelsRequest)
    return refusal_response(event.client_id, event.request, Status.INITIALIZING, text, waited)
