"""Accepts many connections in one turn of the event loop.

Since version 1.46, libuv accepts one connection of a listening socket in each turn of the loop. Under load a turn takes
milliseconds, so libuv would accept only a few hundred connections per second. The kernel's queue of new connections
would overflow, and clients would retry after 1 s, 3 s and 7 s. Therefore, each listening socket has several
descriptors, because libuv accepts one connection from each descriptor in each turn. If all of them have accepted a
connection in one turn, the rest of the queue is accepted without libuv, which takes more time per connection.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

from clockwork.errors import ServerError
from clockwork.net.address import ANY_HOST, Address

DESCRIPTORS: Final = 32
"""Number of descriptors of each listening socket.

If only one connection arrives, each of the remaining descriptors costs a microsecond.
"""

MAX_BURST: Final = 256
"""Largest number of connections that are accepted in one turn in addition to those of `DESCRIPTORS`."""


async def bind_sockets(address: Address) -> list[socket.socket]:
    """Return a bound socket for each of the host's addresses.

    If the operating system chooses the port, only one socket is returned. A socket for the host ``::`` also accepts
    IPv4 connections. On a system without IPv6, the host ``::`` means every IPv4 address.

    Raises:
        OSError: the address is in use or not permitted.
        UnicodeError: the host is not a valid name.
    """
    if address.host == ANY_HOST and not _has_ipv6():
        address = Address("0.0.0.0", address.port)
    found = await asyncio.get_running_loop().getaddrinfo(*address, type=socket.SOCK_STREAM)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, place in found if address.port else found[:1]:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != ANY_HOST)
            sock.bind(place)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def listening_sockets(address: Address, backlog: int, protocol: str) -> list[socket.socket]:
    """Return sockets that listen on the address for a protocol of a front end, which has an option of the same name.

    Raises:
        ServerError: the address is in use or not allowed.
    """
    try:
        sockets = await bind_sockets(address)
        for listening in sockets:
            listening.listen(backlog)
    except (OSError, UnicodeError) as error:  # a host name that cannot be encoded raises UnicodeError
        reason = getattr(error, "strerror", None) or error
        option = f"--{protocol.lower()}"
        raise ServerError(
            f"cannot listen for {protocol} on {address}: {reason}; choose another with {option}"
        ) from error
    return sockets


def _has_ipv6() -> bool:
    """Return whether this system can listen on IPv6 addresses."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind((ANY_HOST, 0))
    except OSError:
        return False
    return True


async def accept_connections(
    sock: socket.socket,
    make: Callable[[], asyncio.BaseProtocol],
    *,
    backlog: int,
    ssl: object = None,
    ssl_handshake_timeout: float | None = None,
) -> list[asyncio.Server]:
    """Accept connections to a bound socket. The options have the same meaning as in ``loop.create_server``.

    The returned servers own the socket and its descriptors, and close them.
    """
    loop = asyncio.get_running_loop()
    descriptors = [sock, *(sock.dup() for _ in range(DESCRIPTORS - 1))]
    options = {"ssl": ssl, "ssl_handshake_timeout": ssl_handshake_timeout}
    burst = _Burst(sock, make, options)
    return [
        await loop.create_server(burst.accepted, sock=each, backlog=backlog, **options)  # type: ignore[call-overload]
        for each in descriptors
    ]


class _Burst:
    """Accepts further connections of a listening socket if many arrive in one turn of the loop."""

    def __init__(self, sock: socket.socket, make: Callable[[], asyncio.BaseProtocol], options: dict[str, Any]) -> None:
        self._socket = sock
        self._make = make
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._accepted = 0  #: number of connections in this turn
        self._connecting: set[asyncio.Task[Any]] = set()

    def accepted(self) -> asyncio.BaseProtocol:
        """Return the protocol of a connection that libuv has accepted."""
        if not self._accepted:
            self._loop.call_soon(self._end_turn)
        self._accepted += 1
        return self._make()

    def _end_turn(self) -> None:
        accepted, self._accepted = self._accepted, 0
        if accepted < DESCRIPTORS:
            return
        for _ in range(MAX_BURST):
            try:
                connection, _ = self._socket.accept()
            except OSError:  # there are no more connections, the server was closed, or it has no descriptor left
                return
            connection.setblocking(False)
            connecting = self._loop.connect_accepted_socket(self._make, connection, **self._options)
            task = self._loop.create_task(connecting)
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Any]) -> None:
        """Forget a connection. If it has failed, for example in the TLS handshake, its socket is closed already."""
        self._connecting.discard(task)
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved, so that asyncio does not log it
