"""Limits the memory of the bodies that are being received."""

from typing import Final

from clockwork.messages.status import Status
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.units import SECOND, Bytes

_FULL: Final = Failure(
    503,
    "RESOURCE_EXHAUSTED",
    "the limit for request bodies in memory is reached; retry later",
    Status.SKIPPED_BY_CONTROLLER,
    retry_after=SECOND,
)


class BodyQuota:
    """Counts the bytes of all bodies in memory, and limits their total."""

    def __init__(self, limit: Bytes) -> None:
        """Start with a count of zero. ``limit`` is in bytes."""
        self._limit = limit
        self._bytes: Bytes = 0

    def add(self, nbytes: Bytes) -> None:
        """Count more bytes of a body.

        Raises:
            RequestFailedError: the limit is exceeded. Bytes above the limit count nevertheless.
        """
        self._bytes += nbytes
        if self._bytes > self._limit:
            raise RequestFailedError(_FULL)

    def release(self, nbytes: Bytes) -> None:
        """Stop counting the bytes of a body."""
        self._bytes -= nbytes
