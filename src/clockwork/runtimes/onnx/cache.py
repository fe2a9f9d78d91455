"""Prepared graphs on disk, so that a restart need not optimise again.

Rules of the file: a cache never fails a load. An entry that is missing, cut off, changed or of another version is
prepared anew; an entry that cannot be written is not. Entries of other machines do not match: their names hold the
model's digest and everything on which the optimised graph depends.

An entry is one file: `MAGIC`, the length of the header, the header (JSON), the graph, the weights.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.runtimes.onnx.prepared import SCRATCH, PreparedModel, aligned
from clockwork.runtimes.probe import Verdict
from clockwork.runtimes.signature import Signature
from clockwork.units import MIB, Bytes

log = logging.getLogger("clockwork.worker")

MAGIC: Final = b"clockwork onnx 3\n"
"""The format; another number is another format."""

SUFFIX: Final = ".onnx-prepared"
"""Of an entry's file; nothing else in the directory is touched."""

HEADER_BYTES_MAX: Final[Bytes] = 16 * MIB
"""No header is longer; a bound on what a broken file makes us read."""


class Header(Struct, frozen=True):
    """What an entry says of itself. ``checksum`` is a CRC-32 of the graph and the weights: against accidents."""

    ports: Signature
    verdict: Verdict
    graph_bytes: Bytes
    weights_bytes: Bytes
    checksum: int


def entry(directory: Path, digest: str, *conditions: str) -> Path:
    """The file of a model: its digest, and the conditions under which the graph was optimised."""
    return directory / f"{digest[:32]}-{hashlib.sha256(repr(conditions).encode()).hexdigest()[:16]}{SUFFIX}"


def load(file: Path) -> tuple[PreparedModel, Verdict] | None:
    """What the file holds, or None."""
    try:
        with file.open("rb") as source:
            return _read(source)
    except (OSError, ValueError, TypeError, KeyError, msgspec.MsgspecError):
        return None


def save(file: Path, prepared: PreparedModel, verdict: Verdict) -> None:
    """Write an entry; at once, or not at all."""
    checksum = zlib.crc32(prepared.weights.data, zlib.crc32(prepared.graph))
    header = msgspec.json.encode(
        Header(prepared.ports, verdict, len(prepared.graph), prepared.weights.nbytes, checksum)
    )
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as target:
                for part in (MAGIC, len(header).to_bytes(4, "little"), header, prepared.graph, prepared.weights.data):
                    target.write(part)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def use(file: Path) -> None:
    """Note that an entry is used: `tidy` removes others before it."""
    with contextlib.suppress(OSError):
        os.utime(file)


LEFT_BEHIND: Final = 3600.0
"""Seconds after which what a process that was killed has left in the directory is nobody's any more."""


def sweep(directory: Path) -> None:
    """Remove what processes have left that were killed while they prepared a model."""
    with contextlib.suppress(OSError):
        with tempfile.TemporaryFile(dir=directory) as file:
            now = os.fstat(file.fileno()).st_mtime  # by the clock that the others' times are of
        for left in (*directory.glob(f"{SCRATCH}*"), *directory.glob(".*.tmp")):
            with contextlib.suppress(OSError):
                if now - left.stat().st_mtime > LEFT_BEHIND:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def tidy(directory: Path, nbytes: Bytes, keep: Path | None = None) -> None:
    """Remove the entries least recently used until all that are left take ``nbytes`` at most; never ``keep``.

    Where two processes tidy at once, one may find an entry gone; that harms neither.
    """
    found = []
    with contextlib.suppress(OSError):
        for file in directory.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                status = file.stat()
                found.append((status.st_mtime_ns, file, status.st_size))
    taken = sum(size for _, _, size in found)
    for _, file, size in sorted(found):
        if taken <= nbytes:
            break
        if file != keep:
            with contextlib.suppress(OSError):
                file.unlink()
            taken -= size


class PreparedCache:
    """The entries of one directory, which together take ``nbytes`` at most; without a directory nothing is kept."""

    def __init__(self, directory: Path | None, nbytes: Bytes | None) -> None:
        """Without ``nbytes``, no entry ever leaves."""
        self.directory = directory
        self.scratch = directory  #: where models are prepared; None: where temporary files go
        self._nbytes = nbytes
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                with tempfile.TemporaryFile(dir=directory):
                    pass
            except OSError as error:
                self.scratch = None
                log.warning("%s is only read, and models that it lacks are not kept: %s", directory, error.strerror)
            sweep(directory)
            if nbytes is not None:
                tidy(directory, nbytes)

    def get(
        self, digest: str, conditions: Sequence[str], make: Callable[[], tuple[PreparedModel, Verdict]]
    ) -> tuple[PreparedModel, Verdict]:
        """The entry of a model; what ``make`` gives becomes it, if there is none."""
        if self.directory is None:
            return make()
        file = entry(self.directory, digest, *conditions)
        known = load(file)
        if known is not None:
            use(file)
            return known
        made = make()
        save(file, *made)
        if self._nbytes is not None:
            tidy(self.directory, self._nbytes, file)
        return made


def _read(source: BinaryIO) -> tuple[PreparedModel, Verdict] | None:
    if source.read(len(MAGIC)) != MAGIC:
        return None
    length = int.from_bytes(source.read(4), "little")
    if length > HEADER_BYTES_MAX:
        return None
    header = msgspec.json.decode(source.read(length), type=Header)
    # The sizes are believed only where the file has them.
    if os.fstat(source.fileno()).st_size != len(MAGIC) + 4 + length + header.graph_bytes + header.weights_bytes:
        return None
    graph = source.read(header.graph_bytes)
    weights: Array = aligned(header.weights_bytes)
    source.readinto(weights.data)  # type: ignore[attr-defined]
    if zlib.crc32(weights.data, zlib.crc32(graph)) != header.checksum:
        return None
    return PreparedModel(graph, weights, header.ports), header.verdict
