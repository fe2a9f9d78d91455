"""Writes replies to connections. The head and the body of a reply are sent in one write, except for streams.

Two writes would take two system calls and two packets, and would wake the client twice. Of the 120 us that a request
took, the second write took 20 us.
"""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from clockwork.http.asgi import Reply
from clockwork.units import KIB

MAX_JOINED: Final = 16 * KIB
"""Largest reply in bytes whose parts are joined before they are written.

Copying such a reply takes less time than writing its parts separately.
"""


NOT_MODIFIED: Final = 304
"""Status of a reply to a client that has the content already."""


def keeps_alive(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether an HTTP/1.0 request requests a persistent connection (RFC 9112, section 9.3)."""
    options = [
        option.strip()
        for name, value in headers
        if name in (b"connection", b"transfer-encoding")
        for option in (value.lower().split(b",") if name == b"connection" else (b"close",))
    ]
    return b"keep-alive" in options and b"close" not in options


async def respond(cycle: Any, reply: Reply) -> None:
    """Wait until the client has read earlier replies. Then write the reply to uvicorn's ``cycle`` and end the cycle."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if not cycle.disconnected and not cycle.transport.is_closing():  # uvicorn updates only its newest cycle
        write(cycle, reply)


def write(cycle: Any, reply: Reply) -> None:
    """Write the reply to uvicorn's ``cycle`` at once, and end the cycle."""
    size = sum(map(len, reply.parts))
    # 304 has no body, and Content-Length would be the length of another reply (RFC 9110, section 8.6)
    head = _head(cycle, reply, b"" if reply.status == NOT_MODIFIED else b"content-length: %d\r\n" % size)
    if cycle.scope["method"] == "HEAD":
        cycle.transport.write(head)
    elif size > MAX_JOINED:
        cycle.transport.writelines([head, *reply.parts])
    else:
        cycle.transport.write(b"".join([head, *reply.parts]))
    _end(cycle)


class Stream:
    """A reply that is sent in pieces, as long as the client reads them.

    At most one piece waits in the memory of the server. The client is disconnected if it reads too slowly. The kernel
    may accept many pieces that the client does not read, so the kernel has the same time limit.
    """

    def __init__(self, cycle: Any, reply: Reply, patience: float) -> None:
        """Write the head of the reply to uvicorn's ``cycle``. The reply must have no parts.

        ``patience`` is the time in seconds that the client may take to read one piece.
        """
        self._cycle, self._patience = cycle, patience
        self._chunked = cycle.scope.get("http_version") != "1.0"
        self._bodyless = cycle.scope["method"] == "HEAD"
        if not self._chunked:  # the end of the connection ends the reply
            cycle.keep_alive = False
        cycle.response_started = True
        self._limit_unread(patience)
        cycle.transport.write(_head(cycle, reply, b"transfer-encoding: chunked\r\n" if self._chunked else b""))
        self._clock = asyncio.get_running_loop().time
        self._wrote = self._clock()

    def send(self, piece: bytes) -> bool:
        """Write a piece, and return True. Return False if the client has not read the previous piece yet."""
        transport = self._cycle.transport
        if transport.get_write_buffer_size():
            if self._clock() - self._wrote > self._patience:
                transport.abort()
            return False
        self._wrote = self._clock()
        if not self._bodyless:
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
        return True

    def end(self) -> None:
        """End the reply."""
        if self._cycle.disconnected or self._cycle.transport.is_closing():
            return
        self._limit_unread(0)
        if self._chunked and not self._bodyless:
            self._cycle.transport.write(b"0\r\n\r\n")
        _end(self._cycle)

    def _limit_unread(self, seconds: float) -> None:
        """Let the kernel end the connection if the client takes no bytes for this time. 0 is the kernel's default."""
        peer = self._cycle.transport.get_extra_info("socket")
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):  # the connection has just ended
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def _head(cycle: Any, reply: Reply, framing: bytes) -> bytes:
    lines = [STATUS_LINE[reply.status]]
    for name, value in (*cycle.default_headers, *reply.headers):
        lines += (name, b": ", value, b"\r\n")
    if (b"connection", b"close") in reply.headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    elif cycle.scope.get("http_version") == "1.0":
        lines.append(b"connection: keep-alive\r\n")
    lines += (framing, b"\r\n")
    return b"".join(lines)


def _end(cycle: Any) -> None:
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
