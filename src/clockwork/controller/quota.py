"""Limits the pending requests of the whole server and of each client.

By default, a client may use at most half of the server's limits, so that one client cannot fill the server. Inputs that
a worker generates count as much as inputs that are sent.
"""

from typing import NamedTuple

from clockwork.controller.config import ControllerConfig
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferRequest
from clockwork.units import Bytes, show_bytes


def input_bytes(request: InferRequest) -> Bytes:
    """Return the size of a request's inputs in memory, whether they are sent or generated."""
    return sum([tensor.nbytes for tensor in request.inputs])


class Full(NamedTuple):
    """The limit that a request would exceed."""

    reason: RefusalReason
    text: str


class Quota:
    """Counts pending requests and their bytes, and decides whether another request fits."""

    def __init__(self, config: ControllerConfig) -> None:
        """``config`` contains the limits."""
        self._config = config
        self.requests = 0
        self.bytes: Bytes = 0
        self._clients: dict[int, tuple[int, Bytes]] = {}  #: number of requests and bytes, by client

    def of(self, client_id: int) -> tuple[int, Bytes]:
        """Return the number and the bytes of a client's requests."""
        return self._clients.get(client_id, (0, 0))

    def reason_to_refuse(
        self, client_id: int, nbytes: Bytes, *, shared: bool = False, beside: "Quota | None" = None
    ) -> Full | None:
        """Return the limit that a request of ``nbytes`` would exceed, or None if the request fits.

        ``shared`` means that the client is a front end with many connections, so the limits of one client do not apply.
        ``beside`` contains requests that wait outside of the controller. These requests count like pending requests.
        """
        config = self._config
        requests, held_bytes = self.requests, self.bytes
        if beside is not None:
            requests, held_bytes = requests + beside.requests, held_bytes + beside.bytes
        if requests >= config.max_pending or held_bytes + nbytes > config.max_pending_bytes:
            held = f"{requests} requests with {show_bytes(held_bytes)} of inputs are pending"
            limit = f"{config.max_pending} requests and {show_bytes(config.max_pending_bytes)}"
            return Full(RefusalReason.SERVER_FULL, f"the server is full: {held}; the limit is {limit}; retry later")
        if shared:
            return None
        requests, held_bytes = self.of(client_id)
        if beside is not None:
            more, more_bytes = beside.of(client_id)
            requests, held_bytes = requests + more, held_bytes + more_bytes
        if requests >= config.max_client_pending or held_bytes + nbytes > config.max_client_bytes:
            held = f"{requests} requests with {show_bytes(held_bytes)} of inputs are pending"
            limit = f"{config.max_client_pending} requests and {show_bytes(config.max_client_bytes)}"
            text = f"this connection has too many pending requests: {held}; its limit is {limit}; wait for responses"
            return Full(RefusalReason.CLIENT_FULL, text)
        return None

    def add(self, client_id: int, nbytes: Bytes) -> None:
        """Count a request that becomes pending."""
        self.requests += 1
        self.bytes += nbytes
        requests, held = self.of(client_id)
        self._clients[client_id] = (requests + 1, held + nbytes)

    def remove(self, client_id: int, nbytes: Bytes) -> None:
        """Stop counting a request that is no longer pending."""
        self.requests -= 1
        self.bytes -= nbytes
        requests, held = self._clients[client_id]
        if requests > 1:
            self._clients[client_id] = (requests - 1, held - nbytes)
        else:
            del self._clients[client_id]

    def check_invariants(self) -> None:
        """Assert that the totals are the sums of the clients' shares."""
        assert self.requests == sum(requests for requests, _ in self._clients.values())
        assert self.bytes == sum(held for _, held in self._clients.values())
