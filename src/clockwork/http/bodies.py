"""Bodies of requests, received and unpacked within limits, and bodies of replies, packed.

Rules of the file: no more is held than the limits allow, whatever a client announces and however well it packs. What
takes long is done in a thread; the event loop is that of the controller.
"""

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any, Final, TypeAlias, TypeVar

from clockwork.errors import InvalidRequestError
from clockwork.host.priority import give_way
from clockwork.http.asgi import ClientGoneError, Headers, Receive, Reply, Scope
from clockwork.http.config import HttpConfig
from clockwork.http.receiving import LARGE_BODY, Held, LargeBody, too_slow
from clockwork.oip.metadata import SHOWN
from clockwork.oip.rest import RestError, wrong
from clockwork.units import KIB, MIB, Bytes, show_bytes

_CUT: Final = "the body cannot be unpacked: it ends too early, or something follows it"

T = TypeVar("T")

Body: TypeAlias = bytes | bytearray | memoryview

WINDOW: Final = {b"gzip": 31, b"deflate": 15}
"""zlib's ``wbits`` by content coding (RFC 9110, section 8.4.1: "deflate" is the zlib format)."""

LEVEL: Final = 1
"""Tensors pack badly; more effort gains little."""

WORTH_PACKING: Final = 256
"""Bytes; what is smaller gains nothing."""

SMALL: Final = 4 * KIB
"""A packed body of at most this size is begun on the event loop: most are whole in one piece."""

ON_THE_LOOP: Final = 64 * KIB
"""What is larger, packed or unpacked, is packed and unpacked in a thread."""

PIECE: Final = 1 * MIB
"""What is packed or unpacked at a time: joining it with the rest takes a fraction of a millisecond."""

ZLIB_THREADS: Final = 2
"""Threads that pack and unpack, for all servers of the process: one for bodies of requests, and one more for replies.
They give way to the threads that execute requests."""

_zlib_threads: Final = ThreadPoolExecutor(ZLIB_THREADS, "zlib", give_way)

MAX_REPOSITORY_BODY: Final = 64 * KIB
"""Bytes of a request to the repository."""


class Bodies:
    """Receives bodies; counts what all of them hold."""

    def __init__(self, config: HttpConfig, held: Held) -> None:
        """See `HttpConfig` for the limits; ``held`` counts for all of a server's connections."""
        self._config = config
        self._held = held
        self._all_unpacked = Held(2 * config.max_unpacked)
        self._unpacking = asyncio.Lock()

    def keeping(self) -> "Kept":
        """Count what one request unpacks, until the end of a ``with`` statement."""
        return Kept(self._all_unpacked)

    async def receive(
        self, scope: Scope, headers: Headers, receive: Receive, kept: "Kept", most: Bytes | None = None
    ) -> Body:
        """The body, unpacked; ``most`` is a limit in bytes beside the configured ones.

        ``kept`` counts what was unpacked.

        Raises:
            RestError: it is too large, comes too slowly, is one too many, or is packed in a way that is not known.
            ClientGoneError: the client went away.
        """
        announced = headers.get(b"content-length", b"0")
        most = self._config.max_body if most is None else min(most, self._config.max_body)
        if len(announced) > 18 or int(announced) > most:
            raise _too_large(most)
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in WINDOW and coding != b"identity":
            known = "identity, gzip and deflate"
            raise wrong(f"the content coding {str(coding, 'latin-1')[:SHOWN]!r} is not known; {known} are", 415)
        large: LargeBody | None = scope.get(LARGE_BODY)
        body: Body = await (
            self._whole(receive, most)
            if large is None
            else large.take(self._config.body_timeout, self._config.body_time)
        )
        return body if coding == b"identity" else await self._unpacked(body, WINDOW[coding], kept, most)

    async def _whole(self, receive: Receive, most: Bytes) -> Body:
        message = await self._next(receive)
        if not message.get("more_body"):
            first: bytes = message["body"]
            return first
        whole = bytearray()
        size = 0
        end = asyncio.get_running_loop().time() + self._config.body_time
        try:
            while True:
                part: bytes = message["body"]
                whole += part
                size += len(part)
                self._held.add(len(part))
                if size > most:
                    raise _too_large(most)
                if not message.get("more_body"):
                    return whole
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

    async def _unpacked(self, body: Body, window: int, kept: "Kept", most: Bytes) -> Body:
        """The body unpacked, a piece at a time; each piece is counted before the next one is made."""
        unpacker = zlib.decompressobj(window)
        made = bytearray()
        view = memoryview(body)
        most = min(most, self._config.max_unpacked)
        try:
            for at in range(0, len(view), ON_THE_LOOP):
                if unpacker.eof:
                    raise wrong(_CUT)
                packed: bytes | memoryview = view[at : at + ON_THE_LOOP]
                while packed and not unpacker.eof:
                    if len(view) <= SMALL and not made:
                        piece = unpacker.decompress(packed, ON_THE_LOOP)
                    else:
                        async with self._unpacking:
                            piece = await _in_thread(unpacker.decompress, packed, PIECE)
                    kept.add(len(piece))
                    made += piece
                    if len(made) > most:
                        raise wrong(
                            f"the body unpacks to more than {show_bytes(most)}; that is the limit: send it as it is",
                            413,
                        )
                    packed = unpacker.unconsumed_tail
        except zlib.error as error:
            raise wrong(f"the body cannot be unpacked: {error}") from None
        if not unpacker.eof or unpacker.unused_data:
            raise wrong(_CUT)
        return made


class Kept:
    """What one request has unpacked, as long as it is in progress."""

    __slots__ = ("_held", "_nbytes")

    def __init__(self, held: Held) -> None:
        """``held`` counts for all requests."""
        self._held = held
        self._nbytes: Bytes = 0

    def add(self, nbytes: Bytes) -> None:
        """More was unpacked.

        Raises:
            RestError: all requests together hold too much.
        """
        self._nbytes += nbytes
        self._held.add(nbytes)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.release(self._nbytes)


def _too_large(most: Bytes) -> RestError:
    return wrong(f"the body is too large; at most {most} bytes are taken", 413)


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
        parts = _pack(reply.parts, WINDOW[coding])
    else:
        parts = await _in_thread(_pack, reply.parts, WINDOW[coding])
    return Reply(reply.status, [*reply.headers, (b"content-encoding", coding), (b"vary", b"accept-encoding")], parts)


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_zlib_threads, work, *arguments)


def _coding(accepted: bytes) -> bytes | None:
    """The first that the client accepts and we know; one of weight 0 is not accepted."""
    for item in accepted.lower().split(b","):
        coding, _, weight = item.replace(b" ", b"").partition(b";")
        if coding in WINDOW and weight.strip(b"0.") != b"q=":
            return coding
    return None


def _pack(parts: Any, window: int) -> list[bytes]:
    """Packed, in parts; zlib lets other threads run only while it packs."""
    packer = zlib.compressobj(LEVEL, wbits=window)
    made = []
    for part in parts:
        view = memoryview(part)
        made += [packer.compress(view[at : at + PIECE]) for at in range(0, len(view), PIECE)]
    return [part for part in (*made, packer.flush()) if part]


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
