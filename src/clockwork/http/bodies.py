"""Receives the bodies of requests, unpacks them, and packs the bodies of replies.

Here, *pack* means compress, and *unpack* means decompress. The limits on memory hold for every announced length and
every compression ratio. Long work runs in threads, because the event loop also runs the controller.
"""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any, Final

from clockwork.errors import InvalidRequestError
from clockwork.frontend.body_quota import BodyQuota
from clockwork.frontend.unpacking import MAX_ON_LOOP, PIECE, WINDOW, Body, UnpackedBytes, in_thread, unpack
from clockwork.http.config import HttpConfig
from clockwork.http.exchange import Exchange
from clockwork.http.heads import Headers
from clockwork.http.receiving import too_slow
from clockwork.http.replies import Reply
from clockwork.messages.faults import quoted
from clockwork.oip.failures import RequestFailedError, bad_request
from clockwork.units import KIB, Bytes

LEVEL: Final = 1
"""zlib's compression level.

The level is low because tensors compress badly. A higher level would take more time and save little.
"""

MIN_PACKED: Final = 256
"""Smallest reply in bytes that is packed. Packing shorter replies saves nothing."""

MAX_CODINGS: Final = 16
"""Number of codings that are read from the header Accept-Encoding; the rest are ignored."""

MAX_REPOSITORY_BODY: Final = 64 * KIB
"""Largest size in bytes of the body of a request for the repository index or for an unload."""


class Bodies:
    """Receives and unpacks bodies. The object counts the memory that all unpacked bodies take together."""

    def __init__(self, config: HttpConfig, quota: BodyQuota) -> None:
        """Apply the limits of ``config``. All connections of a server share ``quota``."""
        self._config = config
        self._quota = quota
        self._unpacked_quota = BodyQuota(2 * config.max_unpacked)
        self._unpacking = asyncio.Lock()

    def keeping(self) -> UnpackedBytes:
        """Return a counter for the bytes to which one request's body unpacks.

        The counter is a context manager. The bytes count against the quota until the context ends.
        """
        return UnpackedBytes(self._unpacked_quota)

    async def receive(
        self, exchange: Exchange, headers: Headers, unpacked: UnpackedBytes, limit: Bytes | None = None
    ) -> Body:
        """Return the body, unpacked.

        Args:
            exchange: the request.
            headers: the request's headers.
            unpacked: counts the bytes that are unpacked.
            limit: limit on the body in bytes, in addition to the configured limits.

        Raises:
            RequestFailedError: the body is too large or arrives too slowly, its coding is unknown, or a quota is
                exceeded.
            ClientGoneError: the client has disconnected.
        """
        announced = headers.get(b"content-length", b"0")
        limit = self._config.max_body if limit is None else min(limit, self._config.max_body)
        if len(announced) > 18 or int(announced) > limit:
            raise self._too_large(limit)
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in WINDOW and coding != b"identity":
            name = quoted(str(coding, "latin-1"))
            raise bad_request(f"content coding {name} is unknown; use identity, gzip or deflate", 415)
        large = exchange.large
        body: Body
        if large is not None:
            exchange.invite_body()
            body = await large.take(self._config.body_timeout, self._config.body_time)
        elif exchange.is_whole:
            body = bytes(await exchange.next_piece())
        else:
            body = await self._whole(exchange, limit)
        return body if coding == b"identity" else await self._unpacked(body, coding, unpacked, limit)

    def _too_large(self, limit: Bytes) -> RequestFailedError:
        advice = " (raise it with --max-body)" if limit == self._config.max_body else ""
        return bad_request(f"the body exceeds the limit of {limit} bytes{advice}", 413)

    async def _whole(self, exchange: Exchange, limit: Bytes) -> Body:
        """Collect the pieces of a body as they arrive. The first piece does not count against the quota."""
        patience = self._config.body_timeout
        loop = asyncio.get_running_loop()
        end = loop.time() + self._config.body_time
        whole = bytearray()
        counted: Bytes = 0
        try:
            while True:
                try:
                    async with asyncio.timeout_at(min(loop.time() + patience, end)):
                        piece = await exchange.next_piece()
                except TimeoutError:
                    raise too_slow(patience, self._config.body_time) from None
                if not whole and exchange.is_whole and not exchange.waiting:
                    return bytes(piece)
                whole += piece
                counted += len(piece)
                self._quota.add(len(piece))
                if len(whole) > limit:
                    raise self._too_large(limit)
                if exchange.is_whole and not exchange.waiting:
                    return whole
        finally:
            self._quota.release(counted)

    async def _unpacked(self, body: Body, coding: bytes, unpacked: UnpackedBytes, limit: Bytes) -> Body:
        limit = min(limit, self._config.max_unpacked)
        return await unpack(body, coding, unpacked, limit, self._unpacking)


async def packed(reply: Reply, headers: Headers) -> Reply:
    """Return the reply, packed if the client prefers this and the reply has at least `MIN_PACKED` bytes."""
    accepted = headers.get(b"accept-encoding")
    if not accepted:
        return reply
    coding = preferred_coding(accepted)
    size = sum(map(len, reply.parts))
    if coding not in WINDOW or size < MIN_PACKED:
        return reply
    if size <= MAX_ON_LOOP:
        parts = _pack(reply.parts, WINDOW[coding])
    else:
        parts = await _pack_in_threads(reply.parts, WINDOW[coding])
    return Reply(reply.status, [*reply.headers, (b"content-encoding", coding), (b"vary", b"accept-encoding")], parts)


def preferred_coding(accepted: bytes) -> bytes:
    """Return the coding with the highest weight in the header Accept-Encoding.

    Unknown codings are ignored. A coding without a weight has weight 1. If several codings have the highest weight, the
    first one is returned, as in Triton.
    """
    best, highest = b"identity", 0.0
    for item in accepted.lower().split(b",", MAX_CODINGS)[:MAX_CODINGS]:
        coding, _, weight = item.replace(b" ", b"").partition(b";")
        if coding not in WINDOW and coding != b"identity":
            continue
        try:
            value = float(weight.removeprefix(b"q=")) if weight else 1.0
        except ValueError:
            continue
        if value > highest:
            best, highest = coding, value
    return best


def _pack(parts: Any, window: int) -> list[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=window)
    compressed = [packer.compress(piece) for piece in _pieces(parts)]
    return [part for part in (*compressed, packer.flush()) if part]


async def _pack_in_threads(parts: Any, window: int) -> list[bytes]:
    """Pack the parts one piece at a time, so that the thread can work on other replies between two pieces."""
    packer = zlib.compressobj(LEVEL, wbits=window)
    compressed = [await in_thread(packer.compress, piece) for piece in _pieces(parts)]
    return [part for part in (*compressed, packer.flush()) if part]


def _pieces(parts: Any) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), PIECE):
            yield view[at : at + PIECE]


def header_bytes(headers: Headers) -> int | None:
    """Return the value of the header Inference-Header-Content-Length, or None if the request lacks it.

    Raises:
        InvalidRequestError: the value is not a number.
    """
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise InvalidRequestError("Inference-Header-Content-Length is not a number of bytes")
    return int(value)
