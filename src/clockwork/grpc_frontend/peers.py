"""A client of the controller for each gRPC connection, so that the limits of one connection hold over gRPC, too.

grpc.aio reports the peer of a call, which is the other end of its connection, but not when the connection ends. So the
clients that were used last are kept, and the oldest idle ones leave when there are too many.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from clockwork.host.local_client import LocalClient

MAX_IDLE: Final = 4096
"""Clients kept in all while some are idle: as many as the port takes connections."""

LOOKED_AT: Final = 8
"""Clients looked at for an idle one when there are too many."""


class Peers:
    """Clients by the peer they ask for."""

    def __init__(self, make: Callable[[], LocalClient], max_idle: int = MAX_IDLE) -> None:
        """``make`` returns a new client."""
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
        made = self._clients[peer] = self._make()
        if self._closed:
            made.close()
        return made

    def close(self) -> None:
        """Close all clients: their waiting requests fail, and so do later ones."""
        self._closed = True
        for client in self._clients.values():
            client.close()

    def _drop_idle(self) -> None:
        for _ in range(LOOKED_AT):
            peer, client = self._clients.popitem(last=False)
            if not client.waiting:
                client.close()
                return
            self._clients[peer] = client  # the newest now; it is busy, so it is in use
