"""Bodies of requests, received and unpacked within limits, and bodies of replies, packed.

Rules of the file: no more is held than the limits allow, whatever a client announces and however well it packs. What
takes long is done in a thread; the event loop is that of the controller.
"""

import asyncio
import zlib
from math import inf
from typing import Any, Final

from clockwork.errors import InvalidRequestError
from clockwork.http.asgi import ClientGoneError, Headers, Receive, Reply, Scope
from clockwork.http.config import HttpConfig
from clockwork.http.receiving import LARGE_BODY, Held, LargeBody, too_slow
from clockwork.oip.metadata import SHOWN
from clockwork.oip.rest import RestError, wrong
from clockwork.units import KIB

WINDOW: Final = {b"gzip": 31, b"deflate": 15}
"""zlib's ``wbits`` by content coding (RFC 9110, section 8.4.1: "deflate" is the zlib format)."""

LEVEL: Final = 1
"""Tensors pack badly; more effort gains little."""

WORTH_PACKING: Final = 256
"""Bytes; what is smaller gains nothing."""

ON_THE_LOOP: Final = 64 * KIB
"""What is larger is packed and unpacked in a thread."""


class Bodies:
    """Receives bodies; counts what all of them hold."""

    def __init__(self, config: HttpConfig, held: Held) -> None:
        """See `HttpConfig` for the limits; ``held`` counts for all of a server's connections."""
        self._config = config
        self._held = held

    async def receive(self, scope: Scope, headers: Headers, receive: Receive) -> bytes | memoryview:
        """The body, unpacked.

        Raises:
            RestError: it is too large, comes too slowly, is one too many, or is packed in a way that is not known.
            ClientGoneError: the client went away.
        """
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 18 or int(announced) > self._config.max_body:
            raise self._too_large()
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in WINDOW and coding != b"identity":
            known = "identity, gzip and deflate"
            raise wrong(f"the content coding {str(coding, 'latin-1')[:SHOWN]!r} is not known; {known} are", 415)
        large: LargeBody | None = scope.get(LARGE_BODY)
        body = await (
            self._whole(receive) if large is None else large.take(self._config.body_timeout, self._config.body_time)
        )
        if coding == b"identity":
            return body
        if len(body) <= ON_THE_LOOP // 16:
            return self._unpacked(body, WINDOW[coding])
        return await asyncio.to_thread(self._unpacked, body, WINDOW[coding])

    async def _whole(self, receive: Receive) -> bytes:
        message = await self._next(receive)
        if not message.get("more_body"):
            first: bytes = message["body"]
            return first
        parts = []
        size = 0
        end = asyncio.get_running_loop().time() + self._config.body_time
        try:
            while True:
                part: bytes = message["body"]
                parts.append(part)
                size += len(part)
                self._held.add(len(part))
                if size > self._config.max_body:
                    raise self._too_large()
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await self._next(receive, end)
        finally:
            self._held.release(size)

    async def _next(self, receive: Receive, end: float = inf) -> Any:
        """``end``: when the whole body has to be there, on the loop's clock."""
        limit = self._config.body_timeout
        try:
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + limit, end)):
                message = await receive()
        except TimeoutError:
            raise too_slow(limit, self._config.body_time) from None
        if message["type"] != "http.request":
            raise ClientGoneError
        return message

    def _unpacked(self, body: bytes | memoryview, window: int) -> bytes:
        unpacker = zlib.decompressobj(window)
        try:
            made = unpacker.decompress(body, self._config.max_body + 1)
        except zlib.error as error:
            raise wrong(f"the body cannot be unpacked: {error}") from None
        if len(made) > self._config.max_body:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise wrong("the body cannot be unpacked: it ends too early, or something follows it")
        return made

    def _too_large(self) -> RestError:
        return wrong(f"the body is too large; at most {self._config.max_body} bytes are taken", 413)


async def packed(reply: Reply, headers: Headers) -> Reply:
    """The reply as the client accepts it: packed, if that is worth it."""
    accepted = headers.get(b"accept-encoding")
    if not accepted:
        return reply
    coding = _coding(accepted)
    size = sum(map(len, reply.parts))
    if coding is None or size < WORTH_PACKING:
        return reply
    if size <= ON_THE_LOOP:
        body = _pack(reply.parts, WINDOW[coding])
    else:
        body = await asyncio.to_thread(_pack, reply.parts, WINDOW[coding])
    return Reply(reply.status, [*reply.headers, (b"content-encoding", coding), (b"vary", b"accept-encoding")], [body])


def _coding(accepted: bytes) -> bytes | None:
    """The first that the client accepts and we know; one of weight 0 is not accepted."""
    for item in accepted.lower().split(b","):
        coding, _, weight = item.replace(b" ", b"").partition(b";")
        if coding in WINDOW and weight.strip(b"0.") != b"q=":
            return coding
    return None


def _pack(parts: Any, window: int) -> bytes:
    packer = zlib.compressobj(LEVEL, wbits=window)
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def header_bytes(headers: Headers) -> int | None:
    """Inference-Header-Content-Length, if it was sent.

    Raises:
        InvalidRequestError: it is no number.
    """
    said = headers.get(b"inference-header-content-length")
    if said is None:
        return None
    if not said.isdigit() or len(said) > 18:
        raise InvalidRequestError("Inference-Header-Content-Length is no number of bytes")
    return int(said)
