"""Reads large files in pieces, so that other threads of the core are not delayed.

A Linux kernel without preemption does not interrupt the copy of large folios from the page cache. With one read of a
file of 575 MB on Linux 6.18 (``CONFIG_PREEMPT_NONE``), another thread of the same core had to wait for up to 56 ms,
although the reading process had the lowest priority. With reads of 1 MiB, the longest wait was 3.5 ms.
"""

import os
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from clockwork.units import MIB, Bytes

PIECE_BYTES: Final[Bytes] = MIB
"""Largest number of bytes of one read."""


def read_into(file: BufferedReader | FileIO, into: memoryview) -> Bytes:
    """Fill ``into`` from a file. Return the number of bytes read, which is smaller if the file ends before.

    Raises:
        OSError: the file cannot be read.
    """
    done = 0
    while done < len(into) and (count := file.readinto(into[done : done + PIECE_BYTES])):
        done += count
    return done


def read_file(path: Path) -> bytearray:
    """Return the content of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        content = bytearray(os.fstat(file.fileno()).st_size)
        with memoryview(content) as into:
            length = read_into(file, into)
    del content[length:]
    return content
