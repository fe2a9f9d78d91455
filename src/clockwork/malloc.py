"""The heap outside Python: what is taken of it, and that it is given back.

Rules of the file: it counts bytes that were asked for, so pages that were never touched, or were kept by the allocator,
make no difference. Only glibc can tell (``mallinfo2``, glibc 2.33); elsewhere nothing is known, which is 0.
"""

import ctypes
import statistics
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

from clockwork.units import KIB, MIB, Bytes

T = TypeVar("T")

ROUNDS: Final = 3
"""So often is measured: other threads take and free meanwhile, and the median is right if they do so in one round."""

GRANULE: Final[Bytes] = 64 * KIB
"""Two sessions of one model differ by less."""

MIN_RETURNED_BYTES: Final[Bytes] = 8 * MIB
"""Blocks of this size are memory of their own, given back when they are freed; smaller ones are kept for the next."""

MAX_FREE_TOP_BYTES: Final[Bytes] = MIN_RETURNED_BYTES
"""So much that is free at the end of a heap is kept."""

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
    """Have large blocks given back to the system. Once; asking again does nothing.

    By itself, glibc raises both limits with what is freed: evicted weights of up to 32 MiB each would be kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, MIN_RETURNED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, MAX_FREE_TOP_BYTES)


def free_bytes() -> Bytes:
    """What was freed and is kept for the next allocations; 0 where that is not known."""
    return 0 if _mallinfo2 is None else int(_mallinfo2().fordblks)


def trim() -> None:
    """Give all free pages back to the system, also those of small blocks between others, which glibc keeps.

    It takes a few milliseconds for each 100 MiB, without the interpreter's lock: call it in a thread. Other threads
    that allocate wait for it.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    malloc_trim(0)


def used_bytes() -> Bytes:
    """What all threads together have taken and not freed; 0 where that is not known."""
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def measure_allocation(make: Callable[[], T]) -> tuple[T, Bytes]:
    """One of the things that ``make`` makes, and the heap that each takes; more than one is never alive.

    Rounded up to `GRANULE`, so that the next measurement most likely says the same.
    """
    made: T | None = None
    found: list[Bytes] = []
    for _ in range(ROUNDS):
        made = None
        before = used_bytes()
        made = make()
        found.append(used_bytes() - before)
    assert made is not None
    return made, -(-max(0, statistics.median_low(found)) // GRANULE) * GRANULE
