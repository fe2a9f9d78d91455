"""Accepts many connections in one turn of the event loop.

Since version 1.46, libuv accepts one connection of a listening socket in each turn of the loop. Under load a turn takes
milliseconds, so libuv would accept only a few hundred connections per second. The kernel's queue of new connections
would overflow, and clients would retry after 1 s, 3 s and 7 s. Therefore, each listening socket has several
descriptors, because libuv accepts one connection from each descriptor in each turn.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from clockwork.net.address import ANY_HOST, Address

DESCRIPTORS: Final = 32
"""Number of descriptors of each listening socket.

The number is also the limit of connections that are accepted in one turn. If only one connection arrives, each of the
remaining descriptors costs a microsecond.
"""


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
    return [
        await loop.create_server(  # type: ignore[call-overload]
            make, sock=each, ssl=ssl, ssl_handshake_timeout=ssl_handshake_timeout, backlog=backlog
        )
        for each in descriptors
    ]
