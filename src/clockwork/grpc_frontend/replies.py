"""Encodes the HTTP/2 headers of gRPC responses. They use no dynamic table, so most of them are constant bytes."""

from typing import Final
from urllib.parse import quote

from msgspec.structs import replace

from clockwork.controller.shedding import Shed
from clockwork.frontend import failure_of_shed
from clockwork.frontend.id_header import header_value
from clockwork.http2.hpack import encoded
from clockwork.messages.request_ids import ID_HEADER
from clockwork.messages.status import status_name
from clockwork.oip.failures import Failure
from clockwork.units import MILLISECOND, Bytes, Nanos

CODES: Final = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""The number of each status code of gRPC."""

MAX_MESSAGE: Final[Bytes] = 2000
"""Longest text of a failure in bytes, before it is percent-encoded.

The encoded text may be three times as long. Clients limit the size of metadata, most of them to 8 KiB, and a frame of
headers to 16 KiB.
"""

HEAD: Final = (
    encoded(b":status", b"200")
    + encoded(b"content-type", b"application/grpc")
    + encoded(b"grpc-accept-encoding", b"identity,deflate,gzip")
)
"""The headers of a response that has messages."""

OK: Final = encoded(b"grpc-status", b"0")
"""The trailers of a successful call."""

MAX_REPLIES: Final = 1000
"""Largest number of encoded responses that `ShedReplies` keeps."""

_PRINTABLE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_ID: Final = ID_HEADER.encode()


def trailing(failure: Failure) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata of a failed call: its status, predicted completion, retry time and id."""
    metadata = [("clockwork-status", str(failure.status)), ("clockwork-status-name", status_name(failure.status))]
    if failure.predicted is not None:
        metadata.append(("clockwork-predicted-ms", f"{failure.predicted / MILLISECOND:.3f}"))
    if failure.retry_after is not None:
        metadata.append(("clockwork-retry-after-ms", f"{failure.retry_after / MILLISECOND:.3f}"))
    if failure.request_id:
        metadata.append((ID_HEADER, header_value(failure.request_id)))
    return tuple(metadata)


def failure_block(failure: Failure) -> bytes:
    """Return the headers that end a call with a failure: its trailers, or what follows `HEAD_ONLY`.

    The text is percent-encoded, as gRPC requires. A long text is cut.
    """
    message = failure.message.encode(errors="replace")[:MAX_MESSAGE].decode(errors="ignore")
    text = quote(message, safe=_PRINTABLE).encode()
    parts = [encoded(b"grpc-status", b"%d" % CODES[failure.grpc]), encoded(b"grpc-message", text)]
    parts += [encoded(name.encode(), value.encode()) for name, value in trailing(failure)]
    return b"".join(parts)


HEAD_ONLY: Final = encoded(b":status", b"200") + encoded(b"content-type", b"application/grpc")
"""The beginning of a response that has no messages. The status follows in the same block."""


def http_block(status: int) -> bytes:
    """Return the headers of the response to a request that is no gRPC call."""
    return encoded(b":status", b"%d" % status)


class ShedReplies:
    """The encoded responses to calls that the server refuses because it is overloaded.

    Calls whose wait and retry time are equal in whole milliseconds get the same response. Only the id differs.
    """

    def __init__(self) -> None:
        """Start with an empty table of responses."""
        self._encoded: dict[tuple[int, int, Nanos], bytes] = {}

    def block(self, shed: Shed) -> bytes:
        """Return the headers of the response."""
        key = shed.rounded
        found = self._encoded.get(key)
        if found is None:
            if len(self._encoded) >= MAX_REPLIES:
                self._encoded.clear()
            failure = failure_of_shed(replace(shed, request_id=""))
            found = self._encoded[key] = HEAD_ONLY + failure_block(failure)
        return found + encoded(_ID, shed.request_id.encode())
