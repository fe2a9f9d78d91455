"""The type of a reply, and functions that create replies."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from clockwork.frontend.id_header import header_value
from clockwork.messages.request_ids import ID_HEADER
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure

_ID_HEADER: Final = ID_HEADER.encode()

_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct):
    """An HTTP reply. ``headers`` do not include Content-Length; ``parts`` are the parts of the body, in order."""

    status: int
    headers: list[tuple[bytes, bytes]]
    parts: Sequence[Any]


def json_reply(content: Any, status: int = 200) -> Reply:
    """Return a reply whose body is ``content`` as JSON."""
    return Reply(status, [(b"content-type", b"application/json")], [_encode(content)])


def id_header(request_id: str) -> tuple[bytes, bytes]:
    """Return the header with the id of the inference request that a reply answers."""
    return _ID_HEADER, header_value(request_id).encode()


def error_reply(failure: Failure, allow: str = "") -> Reply:
    """Return the reply that reports a failure. ``allow`` is the value of the header Allow, or empty."""
    reply = json_reply(failure.body(), failure.http)
    if (seconds := failure.retry_after_s()) is not None:
        reply.headers.append((b"retry-after", seconds.encode()))
    if failure.status == Status.SHUTTING_DOWN:  # the client's next connection can reach another server
        reply.headers.append((b"connection", b"close"))
    if failure.http == 401:
        reply.headers.append((b"www-authenticate", b'Bearer realm="clockwork"'))
    if failure.request_id:
        reply.headers.append(id_header(failure.request_id))
    if allow:
        reply.headers.append((b"allow", allow.encode()))
    return reply
