"""Creates a separate `LocalClient` for each gRPC connection, so that the controller's limits apply to each connection.

grpc.aio reports the peer of a call, which identifies its connection. grpc.aio does not report the end of a connection.
This module therefore keeps the clients that were used most recently. When there are too many clients, the module closes
idle clients.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from clockwork.host.local_client import LocalClient

MAX_IDLE: Final = 4096
"""If there are this many clients, an idle client is closed before a new client is created.

This number equals the limit on the connections to the port.
"""

MAX_SEARCHED: Final = 8
"""Number of clients that are searched for an idle client when there are too many clients."""


class Peers:
    """A table of the clients of all gRPC connections. The key is the connection's peer."""

    def __init__(self, make: Callable[[], LocalClient], max_idle: int = MAX_IDLE) -> None:
        """Create an empty table. ``make`` creates a client."""
        self._make = make
        self._max_idle = max_idle
        self._clients: OrderedDict[str, LocalClient] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        """Return the number of clients in the table."""
        return len(self._clients)

    def client(self, peer: str) -> LocalClient:
        """Return the client of a connection, and create the client if it does not exist yet."""
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
        """Close all clients. Requests that wait for a response fail, and later requests fail too."""
        self._closed = True
        for client in self._clients.values():
            client.close()

    def _drop_idle(self) -> None:
        for _ in range(MAX_SEARCHED):
            peer, client = self._clients.popitem(last=False)
            if not client.waiting:
                client.close()
                return
            self._clients[peer] = client  # a client that is in use moves to the end of the table
