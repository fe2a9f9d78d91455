"""Measures the memory that the C allocator holds, and returns free memory to the system.

Rules of the file: it counts bytes that were allocated. It makes no difference whether their pages were ever touched, or
which free pages the allocator keeps. Only glibc reports these numbers (``mallinfo2``, since glibc 2.33); with other C
libraries the functions return 0.
"""

import ctypes
import statistics
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

from clockwork.units import KIB, MIB, Bytes

T = TypeVar("T")

ROUNDS: Final = 3
"""Number of measurements. Other threads allocate and free meanwhile; the median tolerates that in one round."""

GRANULE: Final[Bytes] = 64 * KIB
"""Results are rounded up to a multiple of this; two sessions of one model differ by less."""

MIN_RETURNED_BYTES: Final[Bytes] = 8 * MIB
"""Blocks of this size or more are returned to the system when they are freed; the allocator keeps smaller ones."""

MAX_FREE_TOP_BYTES: Final[Bytes] = MIN_RETURNED_BYTES
"""Free memory that the allocator may keep at the end of a heap."""

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
    """Make the allocator return large blocks to the system when they are freed. Later calls do nothing.

    By default, glibc raises both limits when large blocks are freed: it would keep evicted weights of up to 32 MiB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, MIN_RETURNED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, MAX_FREE_TOP_BYTES)


def free_bytes() -> Bytes:
    """Return the freed bytes that the allocator keeps for later allocations; 0 if unknown."""
    return 0 if _mallinfo2 is None else int(_mallinfo2().fordblks)


def trim() -> None:
    """Return all free pages to the system, including those between blocks in use, which glibc would keep.

    The call takes a few milliseconds per 100 MiB and does not hold the interpreter's lock: call it in a thread. Other
    threads that allocate memory wait meanwhile.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    malloc_trim(0)


def used_bytes() -> Bytes:
    """Return the bytes that all threads together have allocated and not freed; 0 if unknown."""
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def measure_allocation(make: Callable[[], T]) -> tuple[T, Bytes]:
    """Return an object that ``make`` created, and the memory that such an object takes.

    Only one of the objects exists at a time. The memory is rounded up to `GRANULE`, so that a repeated measurement most
    likely has the same result.
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
