"""The head of a gRPC call: what its HTTP/2 headers say (the page PROTOCOL-HTTP2 of gRPC's documentation).

A connection keeps heads and uses them again for calls with the same headers, so heads are immutable.
"""

import re
from base64 import b64decode
from binascii import Error
from typing import Final, NamedTuple, TypeAlias

from clockwork.frontend.unpacking import WINDOW
from clockwork.http2.fields import is_valid, is_value
from clockwork.http2.hpack import ENTRY_SIZE, Block, Field
from clockwork.messages.faults import quoted
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Bytes, Nanos

MAX_TIMEOUT: Final[Nanos] = 3600 * SECOND
"""Longest time to a call's deadline that is considered, in nanoseconds. A longer time is treated as this time."""

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
"""The names and values of a call's metadata. Values whose names end with ``-bin`` are bytes."""

_UNITS: Final = {
    b"H": 3600 * SECOND,
    b"M": 60 * SECOND,
    b"S": SECOND,
    b"m": MILLISECOND,
    b"u": MICROSECOND,
    b"n": 1,
}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(?:$|[+;])")
_PSEUDO: Final = (b":method", b":scheme", b":path", b":authority")


class Head(NamedTuple):
    """The head of a call.

    ``http_status`` is not 200 if the request is no gRPC call. ``failure`` is an error in the metadata.
    """

    path: str
    http_status: int = 200
    timeout: Nanos | None = None
    encoding: str = "identity"
    metadata: Metadata = ()
    failure: Failure | None = None


def head_of(block: Block, max_size: Bytes) -> Head | None:
    """Return the head that a block of headers describes, or None if the request is malformed."""
    if block.fields is None:
        text = f"metadata is {block.size} bytes; the limit is {max_size} ({ENTRY_SIZE} bytes are added for each entry)"
        return Head("", failure=Failure(431, "RESOURCE_EXHAUSTED", text, Status.INVALID_REQUEST))
    special: dict[bytes, bytes] = {}
    ordinary: list[Field] = []
    for name, value in block.fields:
        if name[:1] == b":":
            if name in special or name not in _PSEUDO or ordinary or not is_value(value):
                return None
            special[name] = value
        elif is_valid(name, value):
            ordinary.append((name, value.strip(b" \t")))
        else:
            return None
    if not special.get(b":path") or b":method" not in special or b":scheme" not in special:
        return None
    return _head_of_request(special, ordinary)


def _head_of_request(special: dict[bytes, bytes], ordinary: list[Field]) -> Head:
    path = special[b":path"].decode("latin-1")
    content_type, encoding, timeout, failure = b"", "identity", None, None
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in ordinary:
        if name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            found = _TIMEOUT.fullmatch(value)
            if found is None:
                failure = _wrong(f"grpc-timeout is {value[:20]!r}; it must have at most 8 digits and a unit")
            else:
                timeout = min(max(1, int(found[1]) * _UNITS[found[2]]), MAX_TIMEOUT)
        elif name == b"grpc-encoding":
            encoding = value.decode("latin-1")
            if value != b"identity" and value not in WINDOW:
                text = f"grpc-encoding {quoted(encoding)} is unknown; use identity, gzip or deflate"
                failure = Failure.unsupported(text)
        elif name.endswith(b"-bin"):
            try:
                decoded = [b64decode(part + b"=" * (-len(part) % 4), validate=True) for part in value.split(b",")]
            except Error:
                failure = _wrong("a value of binary metadata is not Base64")
            else:
                metadata += [(name.decode("latin-1"), part) for part in decoded]
        elif name != b"te":
            metadata.append((name.decode("latin-1"), value.decode("utf-8", "replace")))
    if special[b":method"] != b"POST":
        return Head(path, 405)
    if not _CONTENT_TYPE.match(content_type):
        return Head(path, 415)
    return Head(path, 200, timeout, encoding, tuple(metadata), failure)


def _wrong(text: str) -> Failure:
    return Failure.from_status(Status.INVALID_REQUEST, text)
