"""Unpacks compressed bodies and messages in pieces.

Long work runs in threads, because the event loop also runs the controller.
"""

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias, TypeVar

from clockwork.frontend.body_quota import BodyQuota
from clockwork.host.process_tuning import begin_background_thread
from clockwork.oip.failures import bad_request
from clockwork.units import KIB, MIB, Bytes, show_bytes

_CUT: Final = "the body cannot be unpacked: its compressed data ends too early or is followed by other bytes"

T = TypeVar("T")

Body: TypeAlias = bytes | bytearray | memoryview

WINDOW: Final = {b"gzip": 31, b"deflate": 15}
"""zlib's parameter ``wbits`` for each content coding.

The content coding "deflate" is the zlib format (RFC 9110, section 8.4.1).
"""

MAX_BEGUN_ON_LOOP: Final = 4 * KIB
"""Largest packed body in bytes for which unpacking begins on the event loop.

If the body unpacks to more than `MAX_ON_LOOP` bytes, a thread continues.
"""

MAX_ON_LOOP: Final = 64 * KIB
"""Largest number of bytes that are packed or unpacked on the event loop. Larger bodies are handled in a thread."""

PIECE: Final = 1 * MIB
"""Number of bytes that are packed or unpacked at a time. To copy this number of bytes takes less than a millisecond."""

ZLIB_THREADS: Final = 2
"""Number of threads that pack and unpack: one for requests and one for replies.

All HTTP servers of the process share these threads. These threads have a lower priority than the threads that execute
requests.
"""


_zlib_threads: Final = ThreadPoolExecutor(ZLIB_THREADS, "zlib", begin_background_thread)


class UnpackedBytes:
    """The number of bytes to which one request's body has been unpacked so far.

    The bytes count against the quota while the request is served.
    """

    __slots__ = ("_nbytes", "_quota")

    def __init__(self, quota: BodyQuota) -> None:
        """Start with a count of zero. ``quota`` is shared by all requests."""
        self._quota = quota
        self._nbytes: Bytes = 0

    def add(self, nbytes: Bytes) -> None:
        """Count ``nbytes`` more unpacked bytes.

        Raises:
            RequestFailedError: all requests together exceed the quota.
        """
        self._nbytes += nbytes
        self._quota.add(nbytes)

    def __enter__(self) -> "UnpackedBytes":
        return self

    def __exit__(self, *_: object) -> None:
        self._quota.release(self._nbytes)


async def unpack(
    body: Body, coding: bytes, unpacked: UnpackedBytes, limit: Bytes, unpacking: asyncio.Lock
) -> bytearray:
    """Unpack a body in pieces. Each piece is counted before the next one is unpacked.

    Args:
        body: the compressed body.
        coding: a key of `WINDOW`.
        unpacked: counts the bytes that are unpacked.
        limit: limit on the unpacked body in bytes.
        unpacking: limits the work in threads to one body at a time.

    Raises:
        RequestFailedError: the body is not compressed data, or a limit is exceeded.
    """
    unpacker = zlib.decompressobj(WINDOW[coding])
    whole = bytearray()
    view = memoryview(body)
    try:
        for at in range(0, len(view), MAX_ON_LOOP):
            if unpacker.eof:
                raise bad_request(_CUT)
            packed: bytes | memoryview = view[at : at + MAX_ON_LOOP]
            while packed and not unpacker.eof:
                if len(view) <= MAX_BEGUN_ON_LOOP and not whole:
                    piece = unpacker.decompress(packed, MAX_ON_LOOP)
                else:
                    async with unpacking:
                        piece = await in_thread(unpacker.decompress, packed, PIECE)
                unpacked.add(len(piece))
                whole += piece
                if len(whole) > limit:
                    raise bad_request(
                        f"the body unpacks to more than the limit of {show_bytes(limit)}; send it uncompressed", 413
                    )
                packed = unpacker.unconsumed_tail
    except zlib.error as error:
        raise bad_request(f"the body cannot be unpacked: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise bad_request(_CUT)
    return whole


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run work of zlib in one of the threads."""
    return await asyncio.get_running_loop().run_in_executor(_zlib_threads, work, *arguments)
