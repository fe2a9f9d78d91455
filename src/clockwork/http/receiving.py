"""Receives long bodies of HTTP requests directly into their final place in memory, without the parser.

When a head announces a long body, the rest of that body is received into separate memory. Bodies that pass the parser
are copied several times. These copies took 0.28 ms for a body of 602,112 bytes.
"""

import asyncio
from math import inf
from typing import Any, Final

from clockwork.frontend.body_quota import BodyQuota
from clockwork.http.presence import ClientGoneError
from clockwork.oip.failures import RequestFailedError, bad_request
from clockwork.units import KIB, MIB, Bytes
from clockwork.wire.frame import Allocate, aligned, uninitialised

MIN_LARGE: Final[Bytes] = 16 * KIB
"""Smallest length in bytes of a body that is received into separate memory."""

DISCARDED: Final[Bytes] = 1 * MIB
"""Largest number of bytes of an unwanted body that are received and discarded at a time."""

_discarded: Final = memoryview(bytearray(DISCARDED))


def too_slow(patience: float, limit: float) -> RequestFailedError:
    """Return the error for a body that arrives too slowly.

    ``patience`` is the limit in seconds for each MiB, and ``limit`` is the limit in seconds for the whole body.
    """
    return bad_request(
        f"the body arrived too slowly; the limits are {patience:g} s for each MiB and {limit:g} s in all", 408
    )


class LargeBody:
    """The long body of one request. The object exists while the body is being received, and afterwards."""

    def __init__(
        self, size: Bytes, begin: Any, quota: BodyQuota, allocate: Allocate | None = uninitialised, before: Bytes = 0
    ) -> None:
        """Allocate memory for the body, and copy its first bytes into it.

        Args:
            size: the length of the whole body in bytes.
            begin: the first bytes of the body, which were received together with the head.
            quota: counts the bytes until the application takes the body or gives the body up.
            allocate: returns the body's memory; None: the body is received but discarded.
            before: number of bytes before the part of the body that must be aligned in memory.
        """
        self.filled = 0
        self._whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = size
        self._error: Exception | None = None  #: raised by `take`
        self._quota = quota
        self._memory: memoryview | None = None
        if allocate is not None:
            self._memory = aligned(allocate, size, before)
            self._memory[: len(begin)] = begin
        self.received(len(begin))

    def rest(self) -> memoryview:
        """Return the memory for the rest of the body. If the body was given up, this memory is never read."""
        return _discarded[: self._left] if self._memory is None else self._memory[self.filled :]

    def received(self, nbytes: Bytes) -> bool:
        """Count ``nbytes`` more bytes, and return whether the body is complete now."""
        self.filled += nbytes
        self._left -= nbytes
        if self._memory is not None:
            try:
                self._quota.add(nbytes)
            except RequestFailedError as error:
                self.end(error)
        if not self._left and not self._whole.done():
            self._whole.set_result(None)
        return not self._left

    async def take(self, patience: float, limit: float = inf) -> memoryview:
        """Wait until the body is complete, and return it.

        ``patience`` is the limit in seconds for each MiB, and ``limit`` is the limit in seconds for the whole body.

        Raises:
            ClientGoneError: the client has disconnected.
            RequestFailedError: the body arrives too slowly, or the quota is exceeded.
        """
        memory = self._memory
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        try:
            while not self._whole.done():
                before = self.filled
                await asyncio.wait((self._whole,), timeout=min(patience, end - loop.time()))
                if not self._whole.done() and (self.filled < before + MIB or loop.time() >= end):
                    raise too_slow(patience, limit)
            error, self._error = self._error, None
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # the traceback refers to this frame, so a cycle would keep the connection in memory
            assert memory is not None
            return memory
        finally:
            self.end(ClientGoneError())
            del memory  # frees memory: an exception keeps this frame's variables until it is handled

    def end(self, error: Exception) -> None:
        """Give the body up. Bytes that still arrive are discarded, and `take` raises ``error``."""
        self._release()
        if not self._whole.done():
            self._error = error
            self._whole.set_result(None)

    def __del__(self) -> None:
        """Release the quota of a body that the application never took, because it refused the request."""
        self._release()

    def _release(self) -> None:
        if self._memory is not None:
            self._memory = None
            self._quota.release(self.filled)
