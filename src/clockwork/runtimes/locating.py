"""Finds the model file for a path, and the version of the model.

A path may be a model file or a directory. In a directory, the first match in this list is used:

1. a file ``model`` with the runtime's suffix, or a directory of this name that contains such a file (Triton's layout)
2. the highest version: a directory whose name is a number, with such a file or with exactly one file with the suffix
3. the only file with the suffix, or the file that has the model's name
4. the only subdirectory that contains a model by these rules, or the subdirectory that has the model's name

So a directory may be one model of a repository like Triton's, a whole repository with a single model, or a mounted
volume with a single file. The search ignores hidden files, such as Kubernetes' ``..data``, and the names in `IGNORED`.
If a link points to a model file outside the given directory, the file is rejected unless the link is allowed
(`clockwork.runtimes.links`). Error messages name files relative to the directory.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clockwork.errors import InvalidModelError
from clockwork.messages.faults import quoted
from clockwork.messages.results import DEFAULT_VERSION
from clockwork.runtimes.links import NO_LINKS, OPTION, LinkPolicy

IGNORED: Final = frozenset({"lost+found", "__pycache__", "__MACOSX"})
"""Names of directories that tools and file systems create, and that contain no models."""

MAX_DIGITS: Final = 18
"""Largest number of digits of a version. A number with 18 digits fits into the 64 bits that Triton uses."""

VERSION_RULE: Final = f"versions are numbers of up to {MAX_DIGITS} digits without leading zeros"
"""The rule for the names of versions' directories, for messages."""

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")

MAX_SHOWN: Final = 5
"""Largest number of file names that an error message lists."""


def locate(path: Path, suffix: str, kind: str, name: str = "", links: LinkPolicy = NO_LINKS) -> Path:
    """Return the model file that a path refers to.

    Args:
        path: path of a file or directory.
        suffix: file name suffix of the runtime's models.
        kind: description of such a file for error messages, with an article: "an ONNX model".
        name: the model's name. The name selects one of several files or subdirectories.
        links: decides whether a link may point out of the directory.

    Raises:
        InvalidModelError: there is no such file, the choice is ambiguous, or the file lies outside the path.
    """
    found: Path | None = path
    if path.is_dir():
        try:
            found = _in_directory(path, suffix, name)
        except OSError as error:
            raise InvalidModelError(f"directory {path.name!r} cannot be read: {error.strerror}") from error
        if found is None:
            raise InvalidModelError(
                f"directory {path.name!r} contains no {suffix} file, no VERSION/model{suffix} with a number as VERSION "
                "and no directory with one: check the path"
            )
        if not links.allows(found, found.resolve(), path.resolve()):
            raise InvalidModelError(
                f"{found.relative_to(path)} of model {path.name!r} is a link that points out of its directory: replace "
                f"it with the file, or start the worker with {OPTION} and the directory of the link's target"
            )
    elif path.suffix != suffix:
        raise InvalidModelError(
            f"{path.name!r} is not {kind}: expected a {suffix} file, or a directory with model{suffix} "
            f"or VERSION/model{suffix}"
        )
    if found is None or not found.is_file():
        raise InvalidModelError(f"model file {(found or path).name!r} does not exist: check the path")
    return found


def holds(path: Path, suffix: str) -> bool:
    """Return whether `locate` would find a file with this suffix in a directory."""
    try:
        return _in_directory(path, suffix, "") is not None
    except (InvalidModelError, OSError):
        return True  # `locate` then raises an error with the reason


def is_integer(name: str) -> bool:
    """Return whether a name is an integer. A directory with such a name is meant to be a version."""
    return _INTEGER.fullmatch(name) is not None


def version_of(path: Path, file: Path) -> str:
    """Return the version of a model, such as ``2`` for ``iris/2/model.onnx``.

    ``file`` is the model file for ``path``. In a model repository, the file is called ``model``. If the path is a file
    with a different name, the default version is returned. So ``2024/resnet.onnx`` is not version 2024.
    """
    if path == file and file.stem != "model":
        return DEFAULT_VERSION
    directory = file.parent
    # Triton's layout of a model with external data has a directory called model.onnx
    if directory.name.startswith("model."):
        directory = directory.parent
    return directory.name if _is_version(directory.name) else DEFAULT_VERSION


def _in_directory(path: Path, suffix: str, name: str, depth: int = 1) -> Path | None:
    """Return the model file in a directory, or None. ``depth`` is the number of levels of subdirectories to search."""
    direct = _named_model(path, suffix)
    if direct is not None:
        return direct
    children = list(_children(path))
    versions = [child for child in children if _is_version(child.name) and child.is_dir()]
    if any(child for child in versions if _may_hold(child, suffix)):
        newest = max(versions, key=lambda version: int(version.name))
        found = _named_model(newest, suffix) or _only_file(newest, list(_children(newest)), suffix, name)
        if found is None:
            raise InvalidModelError(
                f"version {newest.name}, the highest of model {path.name!r}, has no model{suffix}: "
                "add it or remove the version"
            )
        return found
    found = _only_file(path, children, suffix, name)
    if found is not None:
        return found
    wrong = [child.name for child in children if is_integer(child.name) and not _is_version(child.name)]
    if wrong and not versions:
        raise InvalidModelError(
            f"directory {quoted(wrong[0])} of model {path.name!r} is not a version: {VERSION_RULE}; rename it"
        )
    if not depth:
        return None
    return _in_subdirectory(path, [child for child in children if child.is_dir()], suffix, name)


def _in_subdirectory(path: Path, children: list[Path], suffix: str, name: str) -> Path | None:
    found: dict[str, Path] = {}
    for child in children:
        try:
            file = _in_directory(child, suffix, name, depth=0)
        except (InvalidModelError, OSError):
            if child.name == name:
                raise
            continue
        if file is not None:
            found[child.name] = file
    if name in found:
        return found[name]
    if len(found) > 1:
        first = min(found)
        raise InvalidModelError(
            f"directory {path.name!r} contains several models: {_listed(found)}; "
            f"name one of them, as in {first}={path.name}/{first}"
        )
    return next(iter(found.values()), None)


def _only_file(path: Path, children: list[Path], suffix: str, name: str) -> Path | None:
    files = {child.name: child for child in children if child.suffix == suffix and child.is_file()}
    if len(files) > 1 and f"{name}{suffix}" not in files:
        raise InvalidModelError(
            f"directory {path.name!r} contains several {suffix} files: {_listed(files)}; name one of them, "
            f"as in NAME={path.name}/{min(files)}"
        )
    return files.get(f"{name}{suffix}") or next(iter(files.values()), None)


def _named_model(path: Path, suffix: str) -> Path | None:
    """Return the file ``model.onnx``, or the file in a directory ``model.onnx`` (Triton's layout), or None."""
    direct = path / f"model{suffix}"
    if direct.is_dir():
        return direct / f"model{suffix}"
    return direct if direct.exists() or direct.is_symlink() else None


def _may_hold(version: Path, suffix: str) -> bool:
    return _named_model(version, suffix) is not None or any(child.suffix == suffix for child in _children(version))


def _children(path: Path) -> Iterator[Path]:
    return (child for child in path.iterdir() if not child.name.startswith(".") and child.name not in IGNORED)


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= MAX_DIGITS


def _listed(names: "dict[str, Path]") -> str:
    shown = sorted(names)
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    return ", ".join(shown[:MAX_SHOWN]) + more
