"""Serves the health of a worker over HTTP, for the probes of Kubernetes and similar systems.

A worker has no other port. `GET /v2/health/live` returns 200 while the worker's event loop runs. `GET /v2/health/ready`
returns 200 while the worker is connected to its controller and loads no models, else 503. Each connection gets one
response.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, cast

from clockwork.errors import ServerError
from clockwork.net.address import Address
from clockwork.units import KIB, Bytes

MAX_HEAD: Final[Bytes] = 4 * KIB
"""Largest size of a request's head. Probes send about 100 bytes."""

MAX_CONNECTIONS: Final = 64
"""Limit of open connections. Further connections are closed at once."""

TIMEOUT_S: Final = 5.0
"""Time after which a connection without a complete request is closed."""


class _Probe(asyncio.Protocol):
    """One connection."""

    def __init__(self, is_ready: Callable[[], bool], open_probes: set["_Probe"]) -> None:
        self._is_ready = is_ready
        self._open = open_probes
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop has a different base class
        if len(self._open) >= MAX_CONNECTIONS:
            transport.abort()
            return
        self._open.add(self)
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._head += data[: MAX_HEAD + 1 - len(self._head)]
        if b"\r\n\r\n" in self._head or len(self._head) > MAX_HEAD:
            self._transport.write(_response(self._head, self._is_ready))
            self._transport.close()

    def close(self) -> None:
        self._transport.abort()


def _response(head: bytes, is_ready: Callable[[], bool]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0]
    body = b""
    if len(head) > MAX_HEAD:
        status = b"431 Request Header Fields Too Large"
    elif path not in (b"/v2/health/live", b"/v2/health/ready"):
        status = b"404 Not Found"
    elif method not in (b"GET", b"HEAD"):
        status = b"405 Method Not Allowed\r\nAllow: GET, HEAD"
    elif path.endswith(b"/live"):
        status, body = b"200 OK", b'{"live":true}'
    else:
        ready = is_ready()
        status = b"200 OK" if ready else b"503 Service Unavailable"
        body = b'{"ready":true}' if ready else b'{"ready":false}'
    length = b"Content-Type: application/json\r\nContent-Length: %d" % len(body)
    lines = b"HTTP/1.1 %b\r\n%b\r\nConnection: close\r\n\r\n" % (status, length)
    return lines if method == b"HEAD" else lines + body


@asynccontextmanager
async def serving_health(address: Address | None, is_ready: Callable[[], bool]) -> AsyncIterator[Address | None]:
    """Serve the health of a worker until the context ends, and yield the actual address.

    If ``address`` is None, serve nothing.

    Raises:
        ServerError: the address is in use or not permitted.
    """
    if address is None:
        yield None
        return
    probes: set[_Probe] = set()
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(partial(_Probe, is_ready, probes), address.host, address.port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServerError(
            f"cannot listen for health checks on {address}: {reason}; choose another with --health"
        ) from error
    try:
        yield Address(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for probe in list(probes):
            probe.close()
