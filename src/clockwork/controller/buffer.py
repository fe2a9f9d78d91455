"""Stores requests that arrive before the stage SERVING.

A request waits until SERVING begins or its time-out passes. If the request states an SLO, it waits at most for
`WAITING_SHARE` of this SLO. Such an SLO counts from the request's arrival, because the client measures the response
time from the arrival. The default SLO counts from the start of SERVING.
"""

from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

from msgspec import Struct, structs

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ClientRequest, Respond
from clockwork.controller.quota import Quota, input_bytes
from clockwork.controller.request_table import RequestTable
from clockwork.controller.responses import refusal_response
from clockwork.messages.requests import InferRequest, ListModelsRequest
from clockwork.messages.status import Status
from clockwork.units import Bytes, Nanos, show_duration

WAITING_SHARE: Final = 0.9
"""Share of a stated SLO for which a request may wait.

The rest of the SLO is for the execution, whose times are uncertain just after a start. A request that cannot be
executed gets its answer before the deadline, so that the client can still send it again.
"""

SPARE_EXPIRIES: Final = 1000
"""Limit of the entries in the heap of expiry times that belong to requests that no longer wait. Above this limit, these
entries are removed.
"""


class _Buffered(Struct, frozen=True):
    """A waiting request.

    ``slo`` is None if the request states no SLO, or an SLO that depends on the model's times.
    """

    arrival: Nanos
    slo: Nanos | None
    event: ClientRequest


class StartupBuffer:
    """InferRequests and ListModelsRequests in order of arrival."""

    def __init__(self, config: ControllerConfig) -> None:
        """Start empty. ``config`` contains the limits and the time-out."""
        self._config = config
        self._quota = Quota(config)
        self._waiting: dict[int, _Buffered] = {}  #: requests by a number that counts up
        self._expiries: list[tuple[Nanos, int]] = []  #: heap of (time, number of the request)
        self._numbers: RequestTable[int] = RequestTable()
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, now: Nanos, event: ClientRequest) -> list[Respond]:
        """Store a request. If the buffer is full, refuse the request."""
        size = _bytes(event)
        if full := self._quota.reason_to_refuse(event.client_id, size, shared=event.shared):
            return [_initializing(event, 0, f"the server is starting up: {full.text}")]
        self._last_number += 1
        arrival = now if event.arrival is None else min(event.arrival, now)
        entry = _Buffered(arrival, _stated_slo(event), event)
        self._waiting[self._last_number] = entry
        heappush(self._expiries, (self._expiry(now, entry), self._last_number))
        self._numbers.add(event.client_id, event.request.id, self._last_number)
        self._quota.add(event.client_id, size)
        return []

    def _expiry(self, now: Nanos, entry: _Buffered) -> Nanos:
        timeout = now + self._config.initializing_timeout
        return (
            timeout if entry.slo is None else min(timeout, max(now, entry.arrival + round(WAITING_SHARE * entry.slo)))
        )

    def expire(self, now: Nanos) -> list[Respond]:
        """Answer the requests that have waited as long as they may."""
        responses = []
        while self._expiries and self._expiries[0][0] <= now:
            number = heappop(self._expiries)[1]
            if number not in self._waiting:
                continue
            entry = self._take(number)
            waited = now - entry.arrival
            text = f"the server is still starting up {show_duration(waited)} after the request arrived"
            if entry.slo is not None and waited >= round(WAITING_SHARE * entry.slo):
                text += f", which leaves too little of its SLO of {show_duration(entry.slo)}"
            text += "; retry later"
            responses.append(_initializing(entry.event, waited, text))
        return responses

    def next_expiry(self) -> Nanos | None:
        """Return when the next request expires, or None if no request waits."""
        while self._expiries and self._expiries[0][1] not in self._waiting:
            heappop(self._expiries)
        if len(self._expiries) > 2 * len(self._waiting) + SPARE_EXPIRIES:
            self._expiries = [entry for entry in self._expiries if entry[1] in self._waiting]
            heapify(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def take(self, count: int) -> list[ClientRequest]:
        """Remove and return the first requests, at most ``count``, in order of arrival.

        If a request states no SLO, it is returned without its arrival time, so that its SLO counts from now.
        """
        entries = [self._take(number) for number in list(islice(self._waiting, count))]
        return [
            structs.replace(entry.event, arrival=entry.arrival if _states_slo(entry.event) else None)
            for entry in entries
        ]

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


def _states_slo(event: ClientRequest) -> bool:
    request = event.request
    return isinstance(request, InferRequest) and (request.slo is not None or request.slo_factor is not None)


def _stated_slo(event: ClientRequest) -> Nanos | None:
    request = event.request
    return request.slo if isinstance(request, InferRequest) and request.slo is not None and request.slo > 0 else None


def _bytes(event: ClientRequest) -> Bytes:
    return input_bytes(event.request) if isinstance(event.request, InferRequest) else 0


def _initializing(event: ClientRequest, waited: Nanos, text: str) -> Respond:
    assert isinstance(event.request, InferRequest | ListModelsRequest)
    return refusal_response(event.client_id, event.request, Status.INITIALIZING, text, waited)
