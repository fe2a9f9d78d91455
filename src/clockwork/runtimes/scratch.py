"""Makes temporary directories for model files.

A process holds a lock on each of its directories. `sweep` removes directories that no process has locked, because their
processes were killed. Three places are tried in this order: the caller's directory, the system's temporary directory,
and memory. If a directory cannot be created, or its file system is full, the next place is tried.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from clockwork.units import MIB, Bytes

PREFIX: Final = "clockwork-scratch-"
"""Prefix of the names of temporary directories. `sweep` removes all unlocked directories with this prefix."""

PROBE: Final[Bytes] = 1 * MIB
"""A file system counts as full if a file of this size cannot be written to it."""

MEMORY: Final = Path("/dev/shm")
"""A file system in memory, which is the last place that is tried."""


def places(preferred: Path | None = None) -> Iterator[Path]:
    """Yield the places in which a temporary directory may be created, with the best place first."""
    if preferred is not None:
        yield preferred
    with suppress(OSError):  # the system may have no writable temporary directory
        yield Path(tempfile.gettempdir())
    if MEMORY.is_dir():
        yield MEMORY


class ScratchDirectory:
    """A locked temporary directory. As a context manager, the object removes the directory at the end."""

    def __init__(self, place: Path, existing: Path | None = None) -> None:
        """Make a directory in ``place``, or lock ``existing``, the directory of an earlier process.

        Raises:
            OSError: the directory cannot be made or opened, or another process has locked it.
        """
        self.path = existing or Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some file systems have no locks
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(self._descriptor)
                raise

    def __enter__(self) -> Path:
        """Return the directory."""
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the directory."""
        self.remove()

    def remove(self) -> None:
        """Remove the directory with its files."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Keep the directory, but unlock it. A later process may lock it again."""
        os.close(self._descriptor)


def make(preferred: Path | None = None) -> ScratchDirectory:
    """Create a temporary directory in the first place that allows one.

    Raises:
        OSError: no place allows a temporary directory.
    """
    failures = []
    for place in places(preferred):
        try:
            return ScratchDirectory(place)
        except OSError as error:
            failures.append(f"{place}: {error.strerror}")
    raise OSError(f"no temporary directory can be made ({'; '.join(failures)}); set TMPDIR to a writable directory")


def is_full(directory: Path) -> bool:
    """Return whether the directory's file system is full."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(PROBE))
            file.flush()
    except OSError:
        return True
    return False


def temporary() -> ScratchDirectory:
    """Create a temporary directory in the first place that allows one.

    Remove the directories of killed processes from this place.

    Raises:
        OSError: no place allows a temporary directory.
    """
    failure = OSError("there is no directory for temporary files")
    for place in places():
        sweep(place)
        try:
            return ScratchDirectory(place)
        except OSError as error:
            failure = error
    raise failure


def sweep(place: Path, keep: Collection[Path] = ()) -> None:
    """Remove the temporary directories in ``place`` whose processes were killed, except those in ``keep``."""
    with suppress(OSError):
        for path in set(place.glob(f"{PREFIX}*")).difference(keep):
            with suppress(OSError):  # the directory may be in use, or may belong to another user
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
    finally:
        os.close(descriptor)
