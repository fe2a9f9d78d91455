"""Finds and hashes the files of a model, so that the controller can send them to workers.

The files of a model are the files that a runtime reads: the model file, its external data, its example inputs, and its
config.pbtxt with the files in the directory ``warmup``. In a directory with several versions or models, only the files
of the chosen one are sent.

External data is found without parsing the model: an ONNX file contains the text ``location`` before the name of each
file of external data. The search runs while the file is hashed. A name that no file beside the model has is ignored.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.messages.files import MAX_FILES, MAX_LIST_BYTES, MAX_MODEL_BYTES, PART_BYTES, FileEntry, FileList
from clockwork.repository.model_root import resolve
from clockwork.repository.models import SUFFIXES
from clockwork.runtimes.by_file import is_program
from clockwork.runtimes.config_pbtxt import beside
from clockwork.runtimes.given import SUFFIX as EXAMPLE
from clockwork.runtimes.given import WARMUP_DIRECTORY
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.locating import locate
from clockwork.units import Bytes, show_bytes

KIND: Final = "the controller's model root"

_LOCATION: Final = re.compile(rb"\n\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])")
"""A StringStringEntryProto whose key is ``location``, up to the length of its value (a varint)."""

MAX_LOCATION: Final = 4096
"""Longest name of a file of external data in bytes."""

_OVERLAP: Final = MAX_LOCATION + 16


class Fingerprint(Struct, frozen=True):
    """The state of one file on disk. If it changes, the file's content may have changed."""

    path: Path
    size: Bytes
    modified: int
    changed: int
    inode: int


class ModelFiles(Struct, frozen=True):
    """The files of a model: their encoded `FileList`, its content, and the place of each file on this machine.

    ``locations`` contains the names of external data in the model file.
    """

    content: str
    encoded: bytes
    files: FileList
    sources: tuple[Fingerprint, ...]
    locations: frozenset[str] = frozenset()


def fingerprint(path: Path) -> Fingerprint | None:
    """Return the state of a file, or None if the file cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Fingerprint(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def encode_list(files: FileList) -> tuple[str, bytes]:
    """Return the content of a list of files, and the encoded list."""
    encoded = msgspec.msgpack.encode(files)
    return hashlib.sha256(encoded).hexdigest(), encoded


def decode_list(encoded: bytes | memoryview, content: str) -> FileList:
    """Return the list of files that was sent for a content.

    Raises:
        InvalidModelError: the bytes are not the list of this content, or the list exceeds a limit or contains a wrong
            path.
    """
    if hashlib.sha256(encoded).hexdigest() != content:
        raise InvalidModelError("the list of the model's files does not match its hash")
    try:
        files = msgspec.msgpack.decode(encoded, type=FileList)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidModelError(f"the list of the model's files cannot be read: {error}") from None
    _check_limits(files)
    seen: set[str] = set()
    for file in files.files:
        path = PurePosixPath(file.path)
        wrong = path.is_absolute() or ".." in path.parts or "\0" in file.path or not path.parts
        if (
            wrong
            or str(path) in seen
            or len(file.digests) != file.parts * hashlib.sha256().digest_size
            or file.size < 0
        ):
            raise InvalidModelError(f"the list of the model's files has an invalid entry for {file.path[:200]!r}")
        seen.add(str(path))
    return files


def find_files(
    root: Path,
    path: str,
    name: str,
    links: LinkPolicy,
    stopped: Callable[[], bool] = lambda: False,
    earlier: ModelFiles | None = None,
) -> ModelFiles:
    """Find and hash the files of a model. ``path`` is relative to the model root. Hashing takes seconds per GiB.

    If ``stopped`` returns true, the call ends early with an error. ``earlier`` is an earlier result for the same model;
    its files that have not changed are not hashed again.

    Raises:
        InvalidModelError: there is no such model, a file cannot be read, or the files exceed a limit.
    """
    found = resolve(root, path, links, KIND)
    suffix = SUFFIXES[1] if is_program(found) else SUFFIXES[0]
    file = locate(found, suffix, f"a {suffix} file", name, links)
    home = root.resolve()
    entries: dict[str, tuple[FileEntry, Fingerprint]] = {}
    hashed = {} if earlier is None else dict(zip(earlier.sources, earlier.files.files, strict=True))

    def add(each: Path, source: Path) -> set[str]:
        if len(entries) >= MAX_FILES:
            raise InvalidModelError(f"model {path!r} has more than {MAX_FILES} files, which is the limit")
        if not links.allows(source, source.resolve(), home):
            raise InvalidModelError(f"{each.name!r} of model {path!r} is a link that points out of {KIND}")
        relative = each.relative_to(home if each.is_relative_to(home) else root).as_posix()
        if not _is_utf8(relative):
            raise InvalidModelError(f"the name of {each.name!r} of model {path!r} is not UTF-8: rename the file")
        before = fingerprint(source)
        if earlier is not None and before is not None and before in hashed and hashed[before].path == relative:
            entries[relative] = hashed[before], before
            return set(earlier.locations)
        searched = each == file and suffix == SUFFIXES[0]
        entry, locations = _hashed(source, relative, stopped, with_locations=searched)
        if before is None or before.size != entry.size or fingerprint(source) != before:
            raise InvalidModelError(f"{each.name!r} of model {path!r} changed while it was read: load it again")
        entries[relative] = entry, before
        return locations

    try:
        locations = add(file, file)
        for location in sorted(locations):
            if (external := _external(file, location)) is not None:
                add(file.parent / location, external)
        for each in _companions(found, file):
            add(each, each)
    except OSError as error:
        raise InvalidModelError(f"the files of model {path!r} cannot be read: {error.strerror}") from error
    ordered = [entries[key] for key in sorted(entries)]
    files = FileList(tuple(entry for entry, _ in ordered))
    _check_limits(files)
    content, encoded = encode_list(files)
    return ModelFiles(content, encoded, files, tuple(source for _, source in ordered), frozenset(locations))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_limits(files: FileList) -> None:
    if len(files.files) > MAX_FILES:
        raise InvalidModelError(f"the model has {len(files.files)} files; the limit is {MAX_FILES}")
    if files.nbytes > MAX_MODEL_BYTES:
        raise InvalidModelError(
            f"the model's files have {show_bytes(files.nbytes)}; the limit is {show_bytes(MAX_MODEL_BYTES)}"
        )
    size = sum(len(file.digests) + len(file.path.encode("utf-8", "replace")) for file in files.files)
    if size > MAX_LIST_BYTES:
        raise InvalidModelError(
            f"the list of the model's files has {show_bytes(size)}; the limit is {show_bytes(MAX_LIST_BYTES)}"
        )


def _companions(path: Path, file: Path) -> Iterator[Path]:
    """Yield the files beside a model file that a runtime reads."""
    example = file.with_suffix(EXAMPLE)
    config = beside(path, file)
    candidates = [example]
    if config is not None:
        candidates.append(config)
        warmup = config.parent / WARMUP_DIRECTORY
        candidates += sorted(warmup.iterdir()) if warmup.is_dir() else []
    yield from (candidate for candidate in candidates if candidate.is_file())


def _external(model: Path, location: str) -> Path | None:
    """Return the file of external data, if there is one beside the model."""
    relative = PurePosixPath(location)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts or "\0" in location:
        return None
    beside = model.parent / relative
    file = beside if beside.exists() else model.resolve().parent / relative  # as the runtime looks for it
    return file if file.is_file() and file != model else None


def _hashed(
    file: Path, relative: str, stopped: Callable[[], bool], *, with_locations: bool
) -> tuple[FileEntry, set[str]]:
    """Return the entry of a file, and the locations of external data that the file names."""
    digests = bytearray()
    locations: set[str] = set()
    tail = b""
    size = 0
    with file.open("rb", buffering=0) as source:
        while part := _read_part(source, PART_BYTES):
            digests += hashlib.sha256(part).digest()
            size += len(part)
            if stopped():
                raise InvalidModelError("the controller is shutting down")
            if size > MAX_MODEL_BYTES:
                raise InvalidModelError(f"{relative!r} has more than {show_bytes(MAX_MODEL_BYTES)}, which is the limit")
            if with_locations:
                seen = tail + part
                locations |= _locations(seen)
                tail = seen[-_OVERLAP:]
    return FileEntry(relative, size, bytes(digests)), locations


def _read_part(source: FileIO, size: Bytes) -> bytes:
    """Read until the part is complete or the file ends, because one call may return fewer bytes."""
    pieces = []
    while size and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _locations(content: bytes) -> set[str]:
    found = set()
    for match in _LOCATION.finditer(content):
        low, *high = match[1]
        length = low if not high else (low & 0x7F) | high[0] << 7
        value = content[match.end() : match.end() + length]
        if len(value) == length <= MAX_LOCATION:
            try:
                found.add(value.decode())
            except UnicodeDecodeError:
                continue
    return found
