"""Encodes the heads of replies."""

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from clockwork.clock import monotonic_epoch
from clockwork.http.replies import Reply
from clockwork.units import SECOND, Nanos

CLOSE: Final = (b"connection", b"close")
"""The header of a reply that ends the connection."""

NOT_MODIFIED: Final = 304
"""Status of a reply to a client that has the content already."""

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}

STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {phrase}\r\n".encode() for status, phrase in _PHRASES.items()}
"""The first line of a reply, by status."""


class DateHeader:
    """The header Date (RFC 9110, section 6.6.1), which changes every second."""

    def __init__(self) -> None:
        """Start without a date."""
        self._line = b""
        self._until: Nanos = 0

    def line(self, now: Nanos) -> bytes:
        """Return the header with its line end. ``now`` is the time of `MonotonicClock`."""
        if now >= self._until:
            seconds, passed = divmod(monotonic_epoch() + now, SECOND)
            self._line = f"date: {formatdate(seconds, usegmt=True)}\r\n".encode()
            self._until = now + SECOND - passed
        return self._line


def keeps_alive(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether an HTTP/1.0 request requests a persistent connection (RFC 9112, section 9.3)."""
    options = [
        option.strip()
        for name, value in headers
        if name in (b"connection", b"transfer-encoding")
        for option in (value.lower().split(b",") if name == b"connection" else (b"close",))
    ]
    return b"keep-alive" in options and b"close" not in options


def encode_head(reply: Reply, date: bytes, framing: bytes, version: str, *, keep_alive: bool) -> bytes:
    """Return the head of a reply.

    Args:
        reply: the reply. If it has the header ``Connection: close``, ``keep_alive`` must be false.
        date: the header Date with its line end.
        framing: the header that tells where the body ends, with its line end, or empty.
        version: the version of HTTP of the request.
        keep_alive: whether the connection stays open after the reply.
    """
    lines = [STATUS_LINES[reply.status], date]
    for name, value in reply.headers:
        lines += (name, b": ", value, b"\r\n")
    if not keep_alive:
        if CLOSE not in reply.headers:
            lines.append(b"connection: close\r\n")
    elif version == "1.0":
        lines.append(b"connection: keep-alive\r\n")
    lines += (framing, b"\r\n")
    return b"".join(lines)
