"""Accepts connections as fast as they arrive, even while the event loop is busy.

libuv accepts one connection of a listening socket in each turn of the loop (since its version 1.46). A turn under load
takes milliseconds, so only a few hundred connections a second would be accepted, the kernel's queue would overflow, and
clients would wait for the retransmission of their SYN: 1 s, 3 s, 7 s. So each listening socket gets several
descriptors; libuv accepts one connection from each of them in a turn.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from clockwork.net.address import ANY_HOST, Address

DESCRIPTORS: Final = 32
"""Number of descriptors of each listening socket, which is also the number of connections accepted in one turn. If only
one connection arrives, each of the other descriptors costs a microsecond."""


async def bind_sockets(address: Address) -> list[socket.socket]:
    """Return a bound socket for each of the host's addresses; only one if the operating system chooses the port.

    A socket of the host ``::`` also takes IPv4 connections. On a system without IPv6, ``::`` is every IPv4 address.

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
    """Return whether this system can listen on IPv6 addresses; it cannot if IPv6 is switched off."""
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
    """Serve connections to a bound socket; the options are the same as for ``loop.create_server``.

    The socket and its descriptors belong to the servers, which close them.
    """
    loop = asyncio.get_running_loop()
    descriptors = [sock, *(sock.dup() for _ in range(DESCRIPTORS - 1))]
    return [
        await loop.create_server(  # type: ignore[call-overload]
            make, sock=each, ssl=ssl, ssl_handshake_timeout=ssl_handshake_timeout, backlog=backlog
        )
        for each in descriptors
    ]
