"""Stores the model files that a worker has received from its controller.

The directory has three parts::

    objects/ID            complete files. ID is a hash of a file's size and parts.
    models/CONTENT/PATH   the files of a model under their paths, as hard links to objects
    partial/ID-N          files that are being received, and the beginnings of interrupted ones

Models with equal files share the objects. Several workers may share the directory. A process locks the partial files
and the incomplete models that it writes, so that no other process uses or removes them. An incomplete model holds links
to those of its files that are complete, so these objects are not removed either. To remove a model, its directory is
first moved away from ``models``. So a process that is killed while it removes a model leaves no model without files.

All files together take at most ``max_bytes``. To make room, interrupted files are removed first, and then the least
recently used models. A worker needs the files of a model only while it reads the model, so a model that is loaded may
be removed.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from clockwork.errors import InvalidModelError
from clockwork.messages.files import PART_BYTES, FileEntry, FileList
from clockwork.units import MIB, Bytes, show_bytes

RESERVE: Final[Bytes] = 64 * MIB
"""Free space that a transfer leaves on the disk."""

MAX_WRITERS: Final = 64
"""Largest number of processes that receive the same file into one directory at the same time."""

INCOMPLETE: Final = "model-"
"""Prefix of the names of incomplete models in ``partial``."""

OPTION: Final = "--received-models"
SIZE_OPTION: Final = "--received-models-size"


def object_id(file: FileEntry) -> str:
    """Return the name under which a file is stored."""
    return hashlib.sha256(file.size.to_bytes(8, "little") + file.digests).hexdigest()


class PartialFile:
    """A file that is being received. The parts that were received earlier are checked when the object is made."""

    def __init__(self, path: Path, entry: FileEntry, stream: BinaryIO) -> None:
        """``stream`` is the open and locked file at ``path``. Parts after the first wrong part are removed."""
        self.path = path
        self._entry = entry
        self._stream = stream
        self.parts = 0  #: number of parts that the file contains
        while self.parts < entry.parts:
            size = entry.part_size(self.parts)
            data = stream.read(size)
            if len(data) != size or hashlib.sha256(data).digest() != entry.digest(self.parts):
                break
            self.parts += 1
        stream.truncate(min(self.parts * PART_BYTES, entry.size))
        stream.seek(0, os.SEEK_END)

    def append(self, data: bytes | memoryview) -> bool:
        """Add the next part. Return False if the part does not match its hash."""
        if hashlib.sha256(data).digest() != self._entry.digest(self.parts):
            return False
        self._stream.write(data)
        self.parts += 1
        return True

    def finish(self, target: Path) -> None:
        """Move the complete file to its final place."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.path.replace(target)
        self._stream.close()

    def close(self) -> None:
        """Keep the parts that were received, so that a later transfer can continue."""
        self._stream.close()


class Assembly:
    """The directory of a model whose files are being received. A lock protects it from other processes."""

    def __init__(self, partial: Path, objects: Path, models: Path) -> None:
        """Make the directory in ``partial``. ``objects`` contains the complete files, ``models`` the complete models.

        Raises:
            OSError: the directory cannot be made.
        """
        self._objects, self._models = objects, models
        self._directory, self._lock = _locked_directory(partial)

    def add(self, file: FileEntry) -> bool:
        """Add a complete file. Return False if the file is not complete, or was removed meanwhile.

        Raises:
            OSError: the file cannot be added.
        """
        target = self._directory / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._objects / object_id(file)
        if _size(source, missing=-1) != file.size:
            return False
        try:
            target.hardlink_to(source)
        except FileNotFoundError:
            return False
        return True

    def complete(self, content: str) -> None:
        """Move the directory to its final place. All files of the content have been added.

        Raises:
            OSError: the directory cannot be moved.
        """
        self._directory.chmod(0o755)
        try:
            self._directory.rename(self._models / content)
        except OSError:
            if not (self._models / content).is_dir():  # else another worker was faster
                raise

    def close(self) -> None:
        """Remove the directory if it is not complete."""
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


class ReceivedModels:
    """The files in one directory. Methods may block on the disk, and may be called from several threads."""

    def __init__(self, directory: Path, max_bytes: Bytes) -> None:
        """Open the directory, which is made when the first file is received. Remove what killed processes left."""
        self.directory = directory
        self.max_bytes = max_bytes
        self._objects, self._models = directory / "objects", directory / "models"
        self._partial = directory / "partial"
        self.pinned: set[str] = set()
        """Contents that were received and not read yet. They are not removed."""
        for left in self._partial.glob(f"{INCOMPLETE}*"):
            _remove_unlocked(left)

    def tree(self, content: str) -> Path | None:
        """Return the directory that serves as the model root for a content, or None if it is not complete."""
        if len(content) != hashlib.sha256().digest_size * 2 or not content.isalnum():
            return None
        tree = self._models / content
        try:
            os.utime(tree)  # the least recently used models are removed first
        except OSError:
            return None
        return tree

    def make_room(self, files: FileList, incomplete: Collection[FileEntry]) -> None:
        """Remove other files until there is room for the ``incomplete`` ones among a model's files.

        Raises:
            InvalidModelError: the model is larger than the directory may be, or the disk has too little space.
        """
        if files.nbytes > self.max_bytes:
            raise InvalidModelError(
                f"the model has {show_bytes(files.nbytes)}, but received models may take at most "
                f"{show_bytes(self.max_bytes)} (raise the limit with {SIZE_OPTION})"
            )
        for directory in (self._objects, self._models, self._partial):
            directory.mkdir(parents=True, exist_ok=True)
        keep = {object_id(file) for file in files.files}
        missing = sum(file.size for file in incomplete)
        needed = missing - sum(_size(path) for path in self._partial.iterdir() if path.name.split("-")[0] in keep)
        removals = self._removals(keep)
        while self._taken() + needed > self.max_bytes or self._free() < needed + RESERVE:
            try:
                next(removals)
            except StopIteration:
                break
        if self._free() < needed + RESERVE:
            raise InvalidModelError(
                f"the disk of {self.directory} has {show_bytes(self._free())} free, but the model needs "
                f"{show_bytes(needed + RESERVE)}: free space, or choose another directory with {OPTION}"
            )

    def has(self, file: FileEntry) -> bool:
        """Return whether a file is complete."""
        return _size(self._objects / object_id(file), missing=-1) == file.size

    def begin(self, file: FileEntry) -> PartialFile:
        """Open a file to receive it, or to continue an interrupted transfer.

        Raises:
            OSError: the file cannot be written.
        """
        for number in range(MAX_WRITERS):
            path = self._partial / f"{object_id(file)}-{number}"
            stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another worker receives the same file
                stream.close()
                continue
            if path.exists() and os.fstat(stream.fileno()).st_ino == path.stat().st_ino:
                return PartialFile(path, file, stream)
            stream.close()  # another worker has finished the file in this moment
        raise OSError(f"{MAX_WRITERS} workers receive the same file")

    def finish(self, file: FileEntry, partial: PartialFile) -> None:
        """Store a complete file."""
        partial.finish(self._objects / object_id(file))

    def assembly(self) -> Assembly:
        """Begin the directory of a model.

        Raises:
            OSError: the directory cannot be made.
        """
        return Assembly(self._partial, self._objects, self._models)

    # --- removing ----------------------------------------------------------------------------------------------------

    def _taken(self) -> Bytes:
        return sum(_size(path) for part in (self._objects, self._partial) for path in part.iterdir())

    def _free(self) -> Bytes:
        return shutil.disk_usage(self.directory).free

    def _removals(self, keep: set[str]) -> Iterator[None]:
        """Remove interrupted files, files of no model, and models by their last use. Yield after each removal."""
        for path in sorted(self._partial.iterdir(), key=_used):
            if path.name.split("-")[0] not in keep:
                _remove_unlocked(path)
                yield
        yield from self._remove_unused(keep)
        for tree in sorted(self._models.iterdir(), key=_used):
            if tree.name not in self.pinned:
                self._remove_tree(tree)
                yield from self._remove_unused(keep)

    def _remove_tree(self, tree: Path) -> None:
        with suppress(OSError):  # another process was faster
            aside = Path(tempfile.mkdtemp(prefix=INCOMPLETE, dir=self._partial))
            tree.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _remove_unused(self, keep: set[str]) -> Iterator[None]:
        """Remove the files that no model contains."""
        for path in list(self._objects.iterdir()):
            with suppress(OSError):
                if path.name not in keep and path.stat().st_nlink == 1:
                    path.unlink()
                    yield


def _locked_directory(partial: Path) -> tuple[Path, int]:
    """Return a new directory for an incomplete model, and the descriptor that locks it."""
    for _ in range(MAX_WRITERS):
        directory = Path(tempfile.mkdtemp(prefix=INCOMPLETE, dir=partial))
        with suppress(OSError):  # a worker that has just started may remove it before it is locked
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == directory.stat().st_ino:
                    return directory, lock
            os.close(lock)
    raise OSError(f"no directory in {partial} can be locked")


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(descriptor)


def _size(path: Path, missing: Bytes = 0) -> Bytes:
    try:
        return path.stat().st_size
    except OSError:
        return missing


def _used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
