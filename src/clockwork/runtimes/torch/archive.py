"""Checks a ``.pt2`` file before PyTorch reads it, and computes its digest.

A model file can execute code. PyTorch reads parts of the file with `pickle` and evaluates its expressions, so files
from unknown authors must not be loaded. The checks refuse truncated files, compressed archives, and pickles that
contain anything except tensors. Even after the checks, a file from an unknown author is not safe.
"""

import hashlib
import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.foreign_files import HEAD_BYTES, recognise
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.locating import locate
from clockwork.units import GIB, MIB, Bytes, show_bytes

SUFFIX: Final = ".pt2"
"""Suffix of a model file."""

MAX_FILE_BYTES: Final[Bytes] = 64 * GIB
"""Limit of the size of a model file. The limit is larger than the memory of any supported device."""

MAX_ENTRIES: Final = 100_000
"""Limit of the number of files in the archive. There is one file for each weight, and about a dozen other files."""

MAX_JSON_BYTES: Final[Bytes] = 256 * MIB
"""Limit of the size of a JSON file in the archive. The graph of DenseNet-121 takes 1 MB."""

COMPILED: Final = "data/compiled/"
"""Directory of compiled code in the archive. The path is relative to the archive's top directory."""

REMEDY: Final = "create it with clockwork export or torch.export.save"

_CHUNK: Final[Bytes] = MIB


class ModelFile(Struct, frozen=True):
    """A checked model file, and the digest of its content."""

    path: Path
    digest: str
    compiled: bool = False
    """Whether the file contains compiled code; see `clockwork.runtimes.torch.compiled`."""


def find(path: Path, name: str = "", links: LinkPolicy = NO_LINKS) -> Path:
    """Return the model file for a path, by the rules of `clockwork.runtimes.locating.locate`."""
    return locate(path, SUFFIX, "an exported PyTorch program", name, links)


def read(path: Path) -> ModelFile:
    """Check the file that `find` returned.

    Raises:
        InvalidModelError: the file is unreadable, not an exported program, truncated, compressed, or has pickled
        objects.
    """
    size = 0
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidModelError(
                f"model file {path.name!r} is {show_bytes(size)}; the limit is {show_bytes(MAX_FILE_BYTES)}"
            )
        with ZipFile(path) as archive:
            compiled = _check(path.name, size, archive)
        return ModelFile(path, _digest(path), compiled)
    except BadZipFile:
        with path.open("rb") as file:
            found = recognise(file.read(HEAD_BYTES))
        if found and "zip archive" not in found:
            raise InvalidModelError(f"{path.name!r} {found}") from None
        raise InvalidModelError(
            f"{path.name!r} is not an exported PyTorch program, or is truncated: its {size} bytes are not a zip "
            "archive; "
            f"{REMEDY}"
        ) from None
    except OSError as error:
        raise InvalidModelError(f"cannot read {path.name!r}: {error.strerror or type(error).__name__}") from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check(name: str, size: Bytes, archive: ZipFile) -> bool:
    """Check the archive. Return whether the file contains compiled code."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise InvalidModelError(f"{name!r} is an archive of {len(entries)} files; the limit is {MAX_ENTRIES}")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != ZIP_STORED for entry in entries):
        raise InvalidModelError(
            f"{name!r} is compressed ({size} bytes unpack to {unpacked}), which torch.export.save never does; {REMEDY}"
        )
    # Each path begins with the name of the archive.
    names = {entry.filename.partition("/")[2]: entry.filename for entry in entries}
    if len(names) < len(entries):
        raise InvalidModelError(f"{name!r} is an archive of {len(entries)} files with {len(names)} names; {REMEDY}")
    if any(path.startswith("data/aotinductor/") for path in names):
        raise InvalidModelError(
            f"{name!r} is a package made by AOTInductor: it has no program that describes inputs and outputs; "
            "create it with clockwork export --compile"
        )
    programs = [path for path in names if path.startswith("models/") and path.endswith(".json")]
    if len(programs) != 1:
        raise InvalidModelError(
            f"{name!r} is an archive of {len(programs)} exported programs, not of one: it is another kind of file, or "
            f"truncated; {REMEDY}"
        )
    _described(name, archive, names[programs[0]])
    for path, entry in names.items():
        if path.endswith("_config.json"):
            _check_pickles(name, archive, names, path)
        elif path.startswith("data/sample_inputs/"):
            _check_pickle(name, archive, entry)
    return any(path.startswith(COMPILED) for path in names)


def _described(name: str, archive: ZipFile, entry: str) -> Any:
    if archive.getinfo(entry).file_size > MAX_JSON_BYTES:
        raise InvalidModelError(f"{entry} of {name!r} is larger than the limit of {show_bytes(MAX_JSON_BYTES)}")
    try:
        return json.loads(archive.read(entry))
    except ValueError as error:
        raise InvalidModelError(f"{entry} of {name!r} is not JSON: {error}") from None


def _check_pickles(name: str, archive: ZipFile, names: dict[str, str], config: str) -> None:
    """Check the weights and constants that ``config`` lists. Weights are stored as plain data or are pickled."""
    described = _described(name, archive, names[config])
    listed = described.get("config") if isinstance(described, dict) else None
    if not isinstance(listed, dict):
        raise InvalidModelError(f"{config} of {name!r} is not a list of weights; {REMEDY}")
    home = config.rpartition("/")[0]
    for what, item in listed.items():
        path = item.get("path_name") if isinstance(item, dict) else None
        found = names.get(f"{home}/{path}")
        if found is None:
            raise InvalidModelError(f"{what!r} of {name!r} is stored in {path!r}, which is not in the archive")
        if not item.get("tensor_meta"):
            raise InvalidModelError(f"{what!r} of {name!r} is a Python object; only tensors can be loaded")
        if item.get("use_pickle"):
            _check_pickle(name, archive, found)


def _check_pickle(name: str, archive: ZipFile, entry: str) -> None:
    """Check that a pickle contains only tensors.

    Without this check, PyTorch would unpickle any object from the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(archive.read(entry)), map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        message = str(error).partition("\n")[0][:200]
        raise InvalidModelError(f"{entry} of {name!r} contains more than tensors: {message}") from None
