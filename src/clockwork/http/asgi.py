"""Types for ASGI's HTTP interface, the scope keys that Clockwork adds, and the type of a reply."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from clockwork.frontend.id_header import header_value
from clockwork.messages.request_ids import ID_HEADER
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Headers: TypeAlias = Mapping[bytes, bytes]

ResultT = TypeVar("ResultT")

BEGAN: Final = "clockwork.began"
"""Scope key: the time at which the request's first byte arrived. The request's SLO counts from this time."""

PRESENCE: Final = "clockwork.presence"
"""Scope key: the `Presence` object, which reports whether the client is still connected."""

RESPOND: Final = "clockwork.respond"
"""Scope key: a coroutine function that sends a complete `Reply`.

The function writes head and body together, which ASGI's ``send`` cannot do.
"""

STREAM: Final = "clockwork.stream"
"""Scope key: a function that begins a reply without a known length, and returns the `Stream` to write it."""

_ID_HEADER: Final = ID_HEADER.encode()

_encode = msgspec.json.Encoder().encode


class ClientGoneError(Exception):
    """The client closed the connection before the reply was sent."""


class Presence:
    """Reports whether the client of a connection is still connected."""

    __slots__ = ("_gone", "on_gone")

    def __init__(self) -> None:
        """Start with a connected client."""
        self._gone = False
        self.on_gone: Callable[[], object] | None = None  #: called when the client disconnects

    def is_gone(self) -> bool:
        """Return whether the client has disconnected."""
        return self._gone

    def leave(self) -> None:
        """Record that the client has disconnected, and call ``on_gone``."""
        self._gone = True
        if self.on_gone is not None:
            self.on_gone()


async def unless_gone(work: Coroutine[Any, Any, ResultT], presence: Presence) -> ResultT:
    """Return the result of ``work``. If the client disconnects before the result is known, cancel ``work``.

    Raises:
        ClientGoneError: the client has disconnected.
    """
    if presence.is_gone():
        work.close()
        raise ClientGoneError
    task = asyncio.current_task()
    assert task is not None
    presence.on_gone = task.cancel
    try:
        return await work
    except asyncio.CancelledError:
        if not presence.is_gone():
            raise
        task.uncancel()
        raise ClientGoneError from None
    finally:
        presence.on_gone = None


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
