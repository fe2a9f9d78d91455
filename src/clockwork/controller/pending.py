"""Stores the pending requests by id, by client, and by deadline.

The controller itself makes requests that check batches or measure models. These requests have the client `NO_CLIENT`,
and do not count towards limits.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from msgspec.structs import replace

from clockwork.controller.config import ControllerConfig
from clockwork.controller.quota import Quota
from clockwork.messages.actions import InferInput
from clockwork.state import ModelState, PendingRequest
from clockwork.units import Nanos

NO_CLIENT: Final = -1
"""Client id of the controller's own requests."""

SPARE_DEADLINES: Final = 1000
"""Number of outdated entries that the heap of deadlines may contain, in addition to one entry for each pending request.
"""


def own_request(
    now: Nanos,
    request_id: int,
    model: ModelState,
    share: InferInput,
    payload: object,
    slo: Nanos,
    *,
    cold_start: bool = False,
    background: bool = False,
) -> PendingRequest:
    """Return one of the controller's own requests, with the inputs ``share``, which may have a different id."""
    return PendingRequest(
        id=request_id,
        client_id=NO_CLIENT,
        client_request_id=request_id,
        model=model,
        input=replace(share, request_id=request_id),
        payload=payload,
        arrival=now,
        deadline=now + slo,
        cold_start=cold_start,
        background=background,
    )


class Pending:
    """The pending requests. `add` and `remove` take O(log n) for n pending requests."""

    def __init__(self, config: ControllerConfig) -> None:
        """Start without requests. ``config`` contains the limits."""
        self.quota = Quota(config)
        self._requests: dict[int, PendingRequest] = {}
        self._by_client: dict[int, dict[int, PendingRequest]] = {}  #: client id -> the client's request id -> request
        self._deadlines: list[tuple[Nanos, int]] = []  #: a heap; entries of requests that have ended are skipped

    def __len__(self) -> int:
        """Return the number of requests, including the controller's own requests."""
        return len(self._requests)

    def __iter__(self) -> Iterator[PendingRequest]:
        """Iterate over the requests, in order of arrival."""
        return iter(self._requests.values())

    def get(self, request_id: int) -> PendingRequest | None:
        """Return the request with this id, or None if it has ended."""
        return self._requests.get(request_id)

    def of_client(self, client_id: int) -> dict[int, PendingRequest]:
        """Return the requests of a client by the client's own ids. The caller must not change the dict."""
        return self._by_client.get(client_id, {})

    def add(self, request: PendingRequest) -> None:
        """Add a request."""
        self._requests[request.id] = request
        heappush(self._deadlines, (request.deadline, request.id))
        if request.client_id != NO_CLIENT:
            self._by_client.setdefault(request.client_id, {})[request.client_request_id] = request
            self.quota.add(request.client_id, request.nbytes)

    def remove(self, request: PendingRequest) -> None:
        """Remove a request that has ended."""
        request.over = True
        del self._requests[request.id]
        if request.client_id != NO_CLIENT:
            self.quota.remove(request.client_id, request.nbytes)
            requests = self._by_client[request.client_id]
            del requests[request.client_request_id]
            if not requests:
                del self._by_client[request.client_id]

    def expired(self, now: Nanos) -> PendingRequest | None:
        """Return the next request whose deadline has passed, or None. Each request is returned only once."""
        while self._deadlines and self._deadlines[0][0] < now:
            request = self._requests.get(heappop(self._deadlines)[1])
            if request is not None:
                return request
        return None

    def next_deadline(self) -> Nanos | None:
        """Return the earliest deadline, or None if no request is pending."""
        self._tidy()
        return self._deadlines[0][0] if self._deadlines else None

    def _tidy(self) -> None:
        """Remove the deadlines of requests that have ended, so that late deadlines do not accumulate."""
        while self._deadlines and self._deadlines[0][1] not in self._requests:
            heappop(self._deadlines)
        if len(self._deadlines) > 2 * len(self._requests) + SPARE_DEADLINES:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._requests]
            heapify(self._deadlines)

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self.quota.check_invariants()
        clients = [request for request in self if request.client_id != NO_CLIENT]
        assert self.quota.requests == len(clients)
        assert self.quota.bytes == sum(request.nbytes for request in clients)
        assert sum(map(len, self._by_client.values())) == len(clients)
        assert not any(request.over for request in self)
        assert {request_id for _, request_id in self._deadlines} >= set(self._requests)
