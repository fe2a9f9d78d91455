"""Keeps the requests of the native protocol that wait in the inbox, and limits their number.

The number is limited because a request keeps its payload in memory. Waiting requests count towards the limits of
`Quota`, together with the pending requests. Each request is either handled exactly once, or withdrawn, or refused on
arrival.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import Respond
from clockwork.controller.quota import Quota
from clockwork.controller.request_table import RequestTable
from clockwork.host.inbox import Waiting
from clockwork.host.reception import Reception
from clockwork.messages.requests import InferRequest
from clockwork.units import Bytes, Nanos

RefuseFull: TypeAlias = Callable[[int, InferRequest, Bytes, Quota], Respond | None]
"""Counts and returns the refusal of a client's request that exceeds the limits. Returns None if the request may wait.
"""


class _Entry:
    """One request. ``waiting`` is set when the request is in the inbox."""

    __slots__ = ("arrival", "client_id", "nbytes", "payload", "request", "waiting")

    def __init__(self, client_id: int, request: InferRequest, payload: Any, arrival: Nanos) -> None:
        self.client_id, self.request, self.payload, self.arrival = client_id, request, payload, arrival
        self.nbytes = len(payload)
        self.waiting: Waiting | None = None


class NativeInbox:
    """The waiting requests of all native clients. Call the methods on the thread of the event loop."""

    def __init__(
        self,
        reception: Reception,
        config: ControllerConfig,
        refuse_full: RefuseFull,
        handle: Callable[[int, InferRequest, Any, Nanos], None],
    ) -> None:
        """``handle`` gets the client's id, the request, its payload and its arrival time."""
        self._reception = reception
        self._refuse_full = refuse_full
        self._handle = handle
        self._quota = Quota(config)
        self._entries: RequestTable[_Entry] = RequestTable()

    def __len__(self) -> int:
        """Number of requests that wait."""
        return self._quota.requests

    def put(
        self, client_id: int, request: InferRequest, payload: Any, arrival: Nanos, slo: Nanos | None
    ) -> Respond | None:
        """Handle a request now or in a later turn, or return its refusal. For ``slo``, see `Reception.refuses`."""
        entry = _Entry(client_id, request, payload, arrival)
        if self._quota.requests:
            refused = self._refuse_full(client_id, request, entry.nbytes, self._quota)
            if refused is not None:
                return refused
        entry.waiting = self._reception.put(lambda: self._take_in(entry), request.model, slo, request.version)
        if entry.waiting is not None:
            self._quota.add(client_id, entry.nbytes)
            self._entries.add(client_id, request.id, entry)
        return None

    def withdraw(self, client_id: int, request_id: int | None = None) -> bool:
        """Remove a client's requests with this id, or all its requests. Return whether any request was removed."""
        found = self._entries.find(client_id, request_id)
        for entry in found:
            self._remove(entry)
            if entry.waiting is not None:
                entry.waiting.withdraw()
        return bool(found)

    def _take_in(self, entry: _Entry) -> None:
        if entry.waiting is not None:
            self._remove(entry)
        self._handle(entry.client_id, entry.request, entry.payload, entry.arrival)

    def _remove(self, entry: _Entry) -> None:
        self._quota.remove(entry.client_id, entry.nbytes)
        self._entries.remove(entry.client_id, entry.request.id, entry)
