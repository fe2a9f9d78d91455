"""Measures the memory that programs have allocated from the C library, and returns free memory to the system.

The numbers are allocated bytes, including memory to which the program never writes. Only glibc has these numbers
(``mallinfo2``, since glibc 2.33). With a different C library, the functions return 0.
"""

import ctypes
import mmap
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from clockwork.units import KIB, MIB, Bytes

T = TypeVar("T")

ROUNDS: Final = 3
"""Number of measurements. The result is their median, because other threads may distort a single measurement."""

GRANULE: Final[Bytes] = 64 * KIB
"""Results are rounded up to a multiple of this size.

Two measurements of the same model differ by less than this size.
"""

MIN_RETURNED_BYTES: Final[Bytes] = 8 * MIB
"""Size in bytes of the smallest block that is returned to the system when it is freed."""

MAX_FREE_TOP_BYTES: Final[Bytes] = MIN_RETURNED_BYTES
"""Largest number of free bytes that the allocator keeps at the end of a heap."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_FIELDS: Final = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def _function() -> Any:
    try:
        found = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    found.restype = _Mallinfo2
    return found


_mallinfo2: Final = _function()


@cache
def return_large_blocks() -> None:
    """Make the allocator return large blocks to the system when they are freed. A second call does nothing.

    By default, glibc raises its limits when a program frees large blocks. After that, glibc would keep the memory of
    evicted weights, if they have at most 32 MiB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, MIN_RETURNED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, MAX_FREE_TOP_BYTES)


def free_bytes() -> Bytes:
    """Return the number of freed bytes that the allocator keeps for later allocations, or 0 if it is unknown.

    The number includes pages that `trim` has returned to the system.
    """
    return 0 if _mallinfo2 is None else int(_mallinfo2().fordblks)


def resident_bytes() -> Bytes:
    """Return the resident memory of this process without shared pages, or 0 if it is unknown (proc(5), statm)."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * mmap.PAGESIZE


def trim() -> None:
    """Return all free pages to the system. Without this call, glibc keeps free pages between blocks that are in use.

    The call takes a few milliseconds for each 100 MiB, so it should run in a thread. The call releases the
    interpreter's lock. Other threads that allocate memory wait until the call ends.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    malloc_trim(0)


def used_bytes() -> Bytes:
    """Return the number of bytes that all threads have allocated and not freed, or 0 if it is unknown."""
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def measure_allocation(make: Callable[[], T]) -> tuple[T, Bytes]:
    """Return an object that ``make`` created, and the number of bytes that such an object takes.

    ``make`` is called several times, but only one of its objects exists at a time. The number is rounded up to a
    multiple of `GRANULE`, so that repeated measurements usually have the same result.
    """
    created: T | None = None
    found: list[Bytes] = []
    for _ in range(ROUNDS):
        created = None
        before = used_bytes()
        created = make()
        found.append(used_bytes() - before)
    assert created is not None
    return created, -(-max(0, statistics.median_low(found)) // GRANULE) * GRANULE
