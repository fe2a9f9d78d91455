"""What an ASGI application is called with, and what it says (ASGI specification, HTTP connection scope)."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from clockwork.messages.status import Status
from clockwork.oip.rest import RestError
from clockwork.units import KIB

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Headers: TypeAlias = Mapping[bytes, bytes]

BEGAN: Final = "clockwork.began"
"""The key of the moment, in a scope, when the first byte of the request came; its deadline counts from then."""

JOINED: Final = 16 * KIB
"""Parts of a body that are smaller together cost less to copy than to write one by one."""

_encode = msgspec.json.Encoder().encode


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


class Reply(msgspec.Struct):
    """A status, headers beside the content's length, and the parts of the body in order."""

    status: int
    headers: list[tuple[bytes, bytes]]
    parts: Sequence[Any]

    async def send(self, send: Send) -> None:
        """As few messages as that is cheap with."""
        size = sum(map(len, self.parts))
        parts = self.parts if len(self.parts) == 1 or size > JOINED else [b"".join(self.parts)]
        headers = [*self.headers, (b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        last = len(parts) - 1
        for number, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": number < last})


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
