"""Return of free memory to the system."""

import ctypes
from pathlib import Path

from clockwork import malloc
from clockwork.units import KIB, MIB

PIECE, COUNT = 40 * KIB, 4000


def resident() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * KIB


def test_small_free_pieces_are_returned_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(PIECE) for _ in range(COUNT)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    for piece in pieces[:-1]:  # the last piece keeps the heap from shrinking on its own
        libc.free(piece)
    before = resident()
    assert malloc.free_bytes() > 100 * MIB
    malloc.trim()
    assert before - resident() > 100 * MIB
    assert 0 < malloc.resident_bytes() <= resident() + MIB
    libc.free(pieces[-1])
