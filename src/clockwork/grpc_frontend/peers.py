"""Gives each gRPC connection its own client of the controller, so that the limits of a connection apply to gRPC.

grpc.aio reports the peer of a call, which identifies its connection, but not the end of the connection. So the clients
used most recently are kept, and the oldest idle ones are closed when there are too many.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from clockwork.host.local_client import LocalClient

MAX_IDLE: Final = 4096
"""Number of clients from which on an idle client is closed for each new one. It equals the port's limit on
connections."""

MAX_SEARCHED: Final = 8
"""Number of clients that are searched for an idle one when the number of clients is too high."""


class Peers:
    """The clients of all connections, by peer."""

    def __init__(self, make: Callable[[], LocalClient], max_idle: int = MAX_IDLE) -> None:
        """``make`` makes a client."""
        self._make = make
        self._max_idle = max_idle
        self._clients: OrderedDict[str, LocalClient] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        """Number of clients."""
        return len(self._clients)

    def client(self, peer: str) -> LocalClient:
        """Return the client of a connection."""
        found = self._clients.get(peer)
        if found is not None:
            self._clients.move_to_end(peer)
            return found
        if len(self._clients) >= self._max_idle:
            self._drop_idle()
        client = self._clients[peer] = self._make()
        if self._closed:
            client.close()
        return client

    def close(self) -> None:
        """Close all clients: their waiting requests fail, and so do later ones."""
        self._closed = True
        for client in self._clients.values():
            client.close()

    def _drop_idle(self) -> None:
        for _ in range(MAX_SEARCHED):
            peer, client = self._clients.popitem(last=False)
            if not client.waiting:
                client.close()
                return
            self._clients[peer] = client  # the client is in use, so it moves to the end
