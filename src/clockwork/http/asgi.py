"""What an ASGI application is called with, and what it says (ASGI specification, HTTP connection scope)."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from clockwork.messages.status import Status
from clockwork.oip.rest import RestError

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Headers: TypeAlias = Mapping[bytes, bytes]

BEGAN: Final = "clockwork.began"
"""The key of the moment, in a scope, when the first byte of the request came; its deadline counts from then."""

PRESENCE: Final = "clockwork.presence"
"""The key of a `Presence` in a scope."""

RESPOND: Final = "clockwork.respond"
"""The key, in a scope, of what takes a whole `Reply`: its head and its body leave together, and not one by one as
through ASGI's ``send``."""

_encode = msgspec.json.Encoder().encode


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


class Presence:
    """Whether somebody is at the other end of a connection."""

    __slots__ = ("_gone", "on_gone")

    def __init__(self) -> None:
        """Somebody is."""
        self._gone = False
        self.on_gone: Callable[[], object] | None = None  #: called when nobody is any more

    def is_gone(self) -> bool:
        """Nobody is."""
        return self._gone

    def leave(self) -> None:
        """Nobody is any more."""
        self._gone = True
        if self.on_gone is not None:
            self.on_gone()


class Reply(msgspec.Struct):
    """A status, headers beside the content's length, and the parts of the body in order."""

    status: int
    headers: list[tuple[bytes, bytes]]
    parts: Sequence[Any]


def json_reply(content: Any, status: int = 200) -> Reply:
    """A reply in JSON."""
    return Reply(status, [(b"content-type", b"application/json")], [_encode(content)])


def refusal(error: RestError) -> Reply:
    """The reply to whom something is refused."""
    reply = json_reply(error.failure.body(), error.failure.http)
    if (wait := error.failure.retry_after_s()) is not None:
        reply.headers.append((b"retry-after", wait.encode()))
    if error.failure.status == Status.SHUTTING_DOWN:  # whoever asks again should reach another
        reply.headers.append((b"connection", b"close"))
    if error.failure.http == 401:
        reply.headers.append((b"www-authenticate", b'Bearer realm="clockwork"'))
    if error.allow:
        reply.headers.append((b"allow", error.allow.encode()))
    return reply
