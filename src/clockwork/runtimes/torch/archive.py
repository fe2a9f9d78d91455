"""What a ``.pt2`` file must be before PyTorch sees it, and its digest.

Rules of the file: a model file is code. PyTorch reads parts of it with `pickle` and evaluates its expressions, so none
from a stranger may be loaded. What is refused here, cut-off files, archives that would unfold to more than their own
size, pickles of anything but tensors, are accidents and the simplest attacks; it makes no stranger's file safe.
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
from clockwork.runtimes.locating import locate
from clockwork.units import GIB, MIB, Bytes, show_bytes

SUFFIX: Final = ".pt2"
"""How the name of a model's file ends."""

FILE_BYTES_MAX: Final[Bytes] = 64 * GIB
"""A larger model is on no device that Clockwork drives."""

ENTRIES_MAX: Final = 100_000
"""Files in the archive: one for each weight, and a dozen others."""

JSON_BYTES_MAX: Final[Bytes] = 256 * MIB
"""Of a description in the archive; that of the graph of DenseNet-121 has 1 MB."""

COMPILED: Final = "data/compiled/"
"""Where compiled code lies in the archive, below its own name."""

HOW: Final = "make it with clockwork export, or torch.export.save"

_CHUNK: Final[Bytes] = MIB


class ModelFile(Struct, frozen=True):
    """A model file that has been checked, and the digest of its content."""

    path: Path
    digest: str
    compiled: bool = False
    """Whether there is compiled code in it; see `clockwork.runtimes.torch.compiled`."""


def find(path: Path) -> Path:
    """The model file that a path means; see `clockwork.runtimes.locating.locate`."""
    return locate(path, SUFFIX, "an exported PyTorch program")


def read(path: Path) -> ModelFile:
    """Check the file that `find` found.

    Raises:
        InvalidModelError: unreadable, no archive of an exported program, cut off, compressed, or with pickled objects.
    """
    size = 0
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise InvalidModelError(
                f"{path.name!r} has {show_bytes(size)}; at most {show_bytes(FILE_BYTES_MAX)} are accepted"
            )
        with ZipFile(path) as archive:
            compiled = _check(path.name, size, archive)
        return ModelFile(path, _digest(path), compiled)
    except BadZipFile:
        raise InvalidModelError(
            f"{path.name!r} is not an exported PyTorch program, or is cut off: its {size} bytes are no zip "
            f"archive; {HOW}"
        ) from None
    except OSError as error:
        raise InvalidModelError(f"{path.name!r} cannot be read: {error.strerror or type(error).__name__}") from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check(name: str, size: Bytes, archive: ZipFile) -> bool:
    """Whether there is compiled code in it."""
    entries = archive.infolist()
    if len(entries) > ENTRIES_MAX:
        raise InvalidModelError(f"{name!r} is an archive of {len(entries)} files; at most {ENTRIES_MAX} are accepted")
    unfolded = sum(it.file_size for it in entries)
    if unfolded > size or any(it.compress_type != ZIP_STORED for it in entries):
        raise InvalidModelError(
            f"{name!r} is compressed ({size} bytes unfold to {unfolded}), which torch.export.save never does; {HOW}"
        )
    # Every name begins with the archive's own.
    names = {it.filename.partition("/")[2]: it.filename for it in entries}
    if len(names) < len(entries):
        raise InvalidModelError(f"{name!r} is an archive of {len(entries)} files with {len(names)} names; {HOW}")
    if any(it.startswith("data/aotinductor/") for it in names):
        raise InvalidModelError(
            f"{name!r} is a package that AOTInductor made: code and weights, without the program that says what they "
            "take and give; make it with clockwork export --compile"
        )
    programs = [it for it in names if it.startswith("models/") and it.endswith(".json")]
    if len(programs) != 1:
        raise InvalidModelError(
            f"{name!r} is an archive of {len(programs)} exported programs, and one is expected: it is of another kind, "
            f"or cut off; {HOW}"
        )
    _described(name, archive, names[programs[0]])
    for it, entry in names.items():
        if it.endswith("_config.json"):
            _check_pickles(name, archive, names, it)
        elif it.startswith("data/sample_inputs/"):
            _check_pickle(name, archive, entry)
    return any(it.startswith(COMPILED) for it in names)


def _described(name: str, archive: ZipFile, entry: str) -> Any:
    if archive.getinfo(entry).file_size > JSON_BYTES_MAX:
        raise InvalidModelError(f"{entry} of {name!r} is larger than {show_bytes(JSON_BYTES_MAX)}")
    try:
        return json.loads(archive.read(entry))
    except ValueError as error:
        raise InvalidModelError(f"{entry} of {name!r} is no JSON: {error}") from None


def _check_pickles(name: str, archive: ZipFile, names: dict[str, str], config: str) -> None:
    """Weights and constants are listed with how they are stored: plain, or pickled."""
    described = _described(name, archive, names[config])
    listed = described.get("config") if isinstance(described, dict) else None
    if not isinstance(listed, dict):
        raise InvalidModelError(f"{config} of {name!r} does not list what it describes; {HOW}")
    home = config.rpartition("/")[0]
    for what, it in listed.items():
        path = it.get("path_name") if isinstance(it, dict) else None
        found = names.get(f"{home}/{path}")
        if found is None:
            raise InvalidModelError(f"{what!r} of {name!r} is to lie in {path!r}, which the archive does not have")
        if not it.get("tensor_meta"):
            raise InvalidModelError(
                f"{what!r} of {name!r} is no tensor, but an object of Python's: only tensors are loaded"
            )
        if it.get("use_pickle"):
            _check_pickle(name, archive, found)


def _check_pickle(name: str, archive: ZipFile, entry: str) -> None:
    """PyTorch would read it as a pickle of anything where it does not read as one of tensors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(archive.read(entry)), map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        said = str(error).partition("\n")[0][:200]
        raise InvalidModelError(f"{entry} of {name!r} holds more than tensors, and is not loaded: {said}") from None
