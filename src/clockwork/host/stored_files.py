"""Reads and writes files that must survive a crash, for the stores in this package.

A file is written under a temporary name and then renamed, so that a crash leaves either the old or the new file.
"""

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from clockwork.units import Bytes

TEMPORARY: Final = ".tmp"
"""Suffix of temporary files."""


def read_file(path: Path, max_bytes: Bytes) -> bytes:
    """Return the content of a regular file. The call never blocks, even if the file is a FIFO or a device.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is too large.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"it is larger than {max_bytes} bytes")
    return data


def write_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file. Create the file's directory if necessary. If ``sync`` is true, the file survives a power failure.

    Raises:
        OSError: the file cannot be written. The old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=TEMPORARY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # the lock marks the file as in use until the file is closed
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    if sync:
        _sync_directory(path.parent)


def remove_abandoned(path: Path) -> None:
    """Remove a temporary file, unless a process has locked it. Such a process is still writing the file."""
    with suppress(OSError), os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
