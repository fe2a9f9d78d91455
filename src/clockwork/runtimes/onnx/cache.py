"""Stores prepared models on disk, so that a restarted worker need not optimise them again.

A fault of the cache never makes a load fail. If an entry is missing, truncated, modified or of a different version, the
model is prepared again. If an entry cannot be written, the model is served without an entry. A worker never uses an
entry that a different kind of machine has written, because the name of an entry contains the model's digest and a hash
of everything that the optimised graph depends on.

An entry is one file. The file contains `MAGIC`, the length of the header, the header in JSON, the graph and the
weights, in this order.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.runtimes import scratch
from clockwork.runtimes.onnx.prepared import PreparedModel, aligned
from clockwork.runtimes.probe import Verdict
from clockwork.runtimes.reading import read_into
from clockwork.runtimes.signature import Signature
from clockwork.units import MIB, Bytes

log = logging.getLogger("clockwork.worker")

MAGIC: Final = b"clockwork onnx 6\n"
"""First bytes of an entry. The number changes when the format changes."""

SUFFIX: Final = ".onnx-prepared"
"""File name suffix of entries. The cache removes only files with this suffix and its own temporary files."""

MAX_HEADER_BYTES: Final[Bytes] = 16 * MIB
"""Largest length of a header. If the length in a damaged file is larger, the file is not read."""


class Header(Struct, frozen=True):
    """Header of an entry. ``checksum`` is a CRC-32 of the graph and the weights, which detects accidental damage."""

    ports: Signature
    verdict: Verdict
    graph_bytes: Bytes
    weights_bytes: Bytes
    checksum: int


def entry(directory: Path, digest: str, *conditions: str) -> Path:
    """Return the path of a model's entry.

    ``conditions`` are texts on which the optimised graph depends, besides the model.
    """
    return directory / f"{digest[:32]}-{hashlib.sha256(repr(conditions).encode()).hexdigest()[:16]}{SUFFIX}"


def load(file: Path) -> tuple[PreparedModel, Verdict] | None:
    """Return the content of an entry, or None if the entry cannot be used."""
    try:
        with file.open("rb") as source:
            return _read(source)
    except (OSError, ValueError, TypeError, KeyError, msgspec.MsgspecError):
        return None


def save(file: Path, prepared: PreparedModel, verdict: Verdict) -> None:
    """Write an entry atomically. If the entry cannot be written, do nothing."""
    checksum = zlib.crc32(prepared.weights.data, zlib.crc32(prepared.graph))
    header = msgspec.json.encode(
        Header(prepared.ports, verdict, len(prepared.graph), prepared.weights.nbytes, checksum)
    )
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as target:
                with contextlib.suppress(OSError):  # some file systems have no locks
                    fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for part in (MAGIC, len(header).to_bytes(4, "little"), header, prepared.graph, prepared.weights.data):
                    target.write(part)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def use(file: Path) -> None:
    """Mark an entry as used now. `tidy` removes the least recently used entries first."""
    with contextlib.suppress(OSError):
        os.utime(file)


def sweep(directory: Path) -> None:
    """Remove temporary files of processes that were killed while they prepared a model or wrote an entry."""
    scratch.sweep(directory)
    with contextlib.suppress(OSError):
        for left in directory.glob(".*.tmp"):
            with contextlib.suppress(OSError), os.fdopen(os.open(left, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # this call fails while a process writes the file
                left.unlink()


def tidy(directory: Path, nbytes: Bytes, keep: Path | None = None) -> None:
    """Remove the least recently used entries until all entries take at most ``nbytes``. Never remove ``keep``.

    Two processes may call this function at the same time. An entry that is already removed is no error.
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
    """The entries of one directory.

    All entries together take at most ``nbytes``. Without a directory, nothing is stored.
    """

    def __init__(self, directory: Path | None, nbytes: Bytes | None) -> None:
        """If ``nbytes`` is None, entries are never removed."""
        self.directory = directory
        self.scratch = directory  #: directory in which models are prepared; None: the system's
        self.nbytes = nbytes
        for place in scratch.places():
            scratch.sweep(place)
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=directory):
                    pass
            except OSError as error:
                self.scratch = None
                log.warning("%s is not writable, so newly prepared models are not kept: %s", directory, error.strerror)
            sweep(directory)
            if nbytes is not None:
                tidy(directory, nbytes)

    def find(self, digest: str, conditions: Sequence[str]) -> tuple[PreparedModel, Verdict] | None:
        """Return the entry of a model, or None if there is no usable entry."""
        if self.directory is None:
            return None
        file = entry(self.directory, digest, *conditions)
        known = load(file)
        if known is not None:
            use(file)
        return known

    def get(
        self, digest: str, conditions: Sequence[str], make: Callable[[], tuple[PreparedModel, Verdict]]
    ) -> tuple[PreparedModel, Verdict]:
        """Return the entry of a model. If there is no entry, call ``make`` and store its result."""
        known = self.find(digest, conditions)
        if known is not None:
            return known
        result = make()
        if self.directory is not None:
            file = entry(self.directory, digest, *conditions)
            save(file, *result)
            if self.nbytes is not None:
                tidy(self.directory, self.nbytes, file)
        return result


def _read(source: BufferedReader) -> tuple[PreparedModel, Verdict] | None:
    if source.read(len(MAGIC)) != MAGIC:
        return None
    length = int.from_bytes(source.read(4), "little")
    if length > MAX_HEADER_BYTES:
        return None
    header = msgspec.json.decode(source.read(length), type=Header)
    # The header's sizes must agree with the file's size.
    if os.fstat(source.fileno()).st_size != len(MAGIC) + 4 + length + header.graph_bytes + header.weights_bytes:
        return None
    graph = source.read(header.graph_bytes)
    weights: Array = aligned(header.weights_bytes)
    read_into(source, weights.data)
    if zlib.crc32(weights.data, zlib.crc32(graph)) != header.checksum:
        return None
    return PreparedModel(graph, weights, header.ports), header.verdict
