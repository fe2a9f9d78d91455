"""Requests of the native protocol that wait in the inbox: they hold their payloads, so they are limited.

Rules of the file: a request that waits counts for the limits of `Quota`, together with the requests that are pending.
Each is handled once, or withdrawn, or refused at once.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import Respond
from clockwork.controller.quota import Quota
from clockwork.host.inbox import Waiting
from clockwork.host.reception import Reception
from clockwork.messages.requests import InferRequest
from clockwork.units import Bytes, Nanos

RefuseFull: TypeAlias = Callable[[int, InferRequest, Bytes, Quota], Respond | None]
"""Return and count the refusal of a client's request that has no room beside those that wait, or None."""


class _Entry:
    """One request; ``waiting`` is set once it is in the inbox."""

    __slots__ = ("arrival", "client_id", "nbytes", "payload", "request", "waiting")

    def __init__(self, client_id: int, request: InferRequest, payload: Any, arrival: Nanos) -> None:
        self.client_id, self.request, self.payload, self.arrival = client_id, request, payload, arrival
        self.nbytes = len(payload)
        self.waiting: Waiting | None = None


class NativeInbox:
    """See the module; to be used on the thread of the event loop."""

    def __init__(
        self,
        reception: Reception,
        config: ControllerConfig,
        refuse_full: RefuseFull,
        handle: Callable[[int, InferRequest, Any, Nanos], None],
    ) -> None:
        """``handle`` has the client's id, the request, its payload and its arrival."""
        self._reception = reception
        self._refuse_full = refuse_full
        self._handle = handle
        self._quota = Quota(config)
        self._clients: dict[int, dict[int, list[_Entry]]] = {}  #: client -> its request id -> requests with that id

    def __len__(self) -> int:
        """Number of requests that wait."""
        return self._quota.requests

    def put(
        self, client_id: int, request: InferRequest, payload: Any, arrival: Nanos, slo: Nanos | None
    ) -> Respond | None:
        """Have a request handled now or in its turn; or return why it may not wait. ``slo``: see `Reception.put`."""
        one = _Entry(client_id, request, payload, arrival)
        if self._quota.requests:
            refused = self._refuse_full(client_id, request, one.nbytes, self._quota)
            if refused is not None:
                return refused
        one.waiting = self._reception.put(lambda: self._take_in(one), request.model, slo)
        if one.waiting is not None:
            self._quota.add(client_id, one.nbytes)
            self._clients.setdefault(client_id, {}).setdefault(request.id, []).append(one)
        return None

    def withdraw(self, client_id: int, request_id: int) -> bool:
        """Forget a client's requests with this id; return whether there was one."""
        found = list(self._clients.get(client_id, {}).get(request_id, ()))
        for one in found:
            self._forget(one)
        return bool(found)

    def leave(self, client_id: int) -> None:
        """Forget all requests of a client."""
        for request_id in list(self._clients.get(client_id, ())):
            self.withdraw(client_id, request_id)

    def _take_in(self, one: _Entry) -> None:
        if one.waiting is not None:
            self._remove(one)
        self._handle(one.client_id, one.request, one.payload, one.arrival)

    def _forget(self, one: _Entry) -> None:
        self._remove(one)
        if one.waiting is not None:
            one.waiting.withdraw()

    def _remove(self, one: _Entry) -> None:
        self._quota.remove(one.client_id, one.nbytes)
        requests = self._clients[one.client_id]
        same = requests[one.request.id]
        same.remove(one)
        if not same:
            del requests[one.request.id]
            if not requests:
                del self._clients[one.client_id]
