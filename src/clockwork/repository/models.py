"""Finds the models of a repository and their versions.

A model NAME is a directory of the repository:

- ``NAME/VERSION/model.onnx`` or ``.pt2`` with a number as VERSION, and beside it ``NAME/config.pbtxt`` (Triton)
- ``NAME/model.onnx``, or another file that `clockwork.runtimes.locating` finds in the directory (KServe). Such a model
  has one version

A file ``NAME.onnx`` or ``NAME.pt2`` in the repository is a model too.

If a model has a fault, its description contains the fault, so that the other models can still be used. An error is
raised only if the repository is unreadable or too large.
"""

import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from clockwork.controller.naming import check_model_name
from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.messages.faults import MAX_LISTED, MAX_QUOTED, as_utf8, quoted
from clockwork.repository.contents import Contents, contents_of, is_ignored
from clockwork.repository.model_root import resolve
from clockwork.repository.policy import Latest, VersionPolicy, choose, policy_of
from clockwork.runtimes.by_file import PROGRAM, is_program
from clockwork.runtimes.config_pbtxt import FILE, configured_batch, read_config
from clockwork.runtimes.links import NO_LINKS, OPTION, LinkPolicy
from clockwork.runtimes.locating import VERSION_RULE, holds, locate, version_of
from clockwork.runtimes.text_format import Fields
from clockwork.steps import Steps, at_once

KIND: Final = "the model repository"
"""Name of the paths' root in error messages."""

SUFFIXES: Final = (".onnx", PROGRAM)
"""File name suffixes of models."""

MAX_ENTRIES: Final = 20_000
"""Largest number of files and directories at the top level of a repository."""


class RepositoryModel(Struct, frozen=True):
    """A model on disk.

    - ``path``: absolute path of its directory or file
    - ``versions``: absolute path by version, for the versions that have a model file
    - ``incomplete``: by version, why the remaining versions cannot be served
    - ``policy``: the rule that chooses the versions to serve
    - ``config``: all fields of the configuration; None if the model has no configuration
    - ``max_batch_size``: from the configuration; None if it is not set
    - ``contents``: the files, for comparison with earlier contents; None if they could not be read
    - ``warnings``: faults that do not prevent the model from being loaded
    - ``problems``: the reasons why the model cannot be loaded; empty if it can be loaded
    """

    name: str
    path: Path
    versions: dict[int, Path] = {}
    incomplete: dict[int, str] = {}
    policy: VersionPolicy = Latest()
    config: Fields | None = None
    max_batch_size: int | None = None
    contents: Contents | None = None
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def find_model(root: Path, name: str, links: LinkPolicy = NO_LINKS, config: Fields | None = None) -> RepositoryModel:
    """Return a model of the repository in ``root``; a ``config`` replaces the model's config.pbtxt.

    Raises:
        InvalidRequestError: the name cannot be the name of a model.
        InvalidModelError: the repository has no such model.
    """
    check_model_name(name)
    found = [entry for entry in (name, *(name + suffix for suffix in SUFFIXES)) if os.path.lexists(root / entry)]
    if not found:
        raise InvalidModelError(
            f"model {quoted(name)} is not in the model repository: add {name[:80]}/1/model.onnx, or check the name"
        )
    return _described(root.resolve(), name, found, links, config)


def list_models(root: Path, links: LinkPolicy = NO_LINKS) -> list[RepositoryModel]:
    """Return all models of a repository, ordered by name.

    Raises:
        InvalidRequestError: the repository cannot be read, or has more than `MAX_ENTRIES` entries.
    """
    return at_once(list_in_steps(root, links))


def list_in_steps(root: Path, links: LinkPolicy = NO_LINKS) -> Steps[list[RepositoryModel]]:
    """Return the same as `list_models`. Each step reads one model."""
    models = []
    home = root.resolve()
    for name, entries in entries_by_name(home).items():
        models.append(_described(home, name, entries, links, None))
        yield
    return models


def scan_in_steps(root: Path, links: LinkPolicy = NO_LINKS) -> Steps[dict[str, Contents | str]]:
    """Return, by model name, the contents of each model, or the reason why they cannot be read.

    Each step reads one model.

    Polls use this function, because it takes much less time than `list_in_steps`.

    Raises:
        InvalidRequestError: the repository cannot be read, or has more than `MAX_ENTRIES` entries.
    """
    found: dict[str, Contents | str] = {}
    home = root.resolve()
    for name, entries in entries_by_name(home).items():
        try:
            found[name] = contents_of(_located(home, name, entries, links), links)
        except InvalidRequestError as error:
            found[name] = str(error)
        except OSError as error:
            found[name] = _unreadable(name, error)
        yield
    return found


def entries_by_name(root: Path) -> dict[str, list[str]]:
    """Return the files and directories of a repository that may be models. The keys are the models' names, in order.

    Raises:
        InvalidRequestError: the repository cannot be read, or has more than `MAX_ENTRIES` entries.
    """
    found: dict[str, list[str]] = {}
    try:
        with os.scandir(root) as entries:
            for count, entry in enumerate(entries, 1):
                if count > MAX_ENTRIES:
                    raise InvalidRequestError(
                        f"model repository {str(root)!r} has more than {MAX_ENTRIES} entries, which is the limit: "
                        "split it"
                    )
                name = _model_name(entry)
                if name:
                    found.setdefault(name, []).append(entry.name)
    except OSError as error:
        raise InvalidRequestError(f"model repository {str(root)!r} cannot be read: {error.strerror}") from error
    return {name: sorted(found[name]) for name in sorted(found)}


def wanted_versions(model: RepositoryModel) -> tuple[int, ...]:
    """Return the versions that the model's policy chooses, in ascending order.

    Raises:
        InvalidModelError: the model has a problem, or a chosen version does not exist or is incomplete.
    """
    if model.problems:
        raise InvalidModelError(model.problems[0])
    chosen = choose(model.policy, model.versions.keys() | model.incomplete.keys(), model.name)
    for version in chosen:
        if version in model.incomplete:
            raise InvalidModelError(f"version {version} of model {model.name!r}: {model.incomplete[version]}")
    return chosen


def _model_name(entry: "os.DirEntry[str]") -> str:
    """Return the model's name if an entry of a repository is a model, else an empty text.

    If the entry's name is not UTF-8, the other bytes are escaped. The result is not a valid name of a model, but
    responses can contain it.
    """
    if is_ignored(entry.name):
        return ""
    name = as_utf8(entry.name)
    stem, dot, suffix = name.rpartition(".")
    if dot + suffix in SUFFIXES and not _is_directory(entry):
        return stem
    return name if _is_directory(entry) else ""


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # the entry is a link that points to itself
        return True  # `_described` will report the reason


def _described(home: Path, name: str, entries: list[str], links: LinkPolicy, config: Fields | None) -> RepositoryModel:
    path = home / entries[0]
    try:
        path = _located(home, name, entries, links)
        return _Reader(home, name, path, links).model(config)
    except InvalidRequestError as error:
        return RepositoryModel(name, path, problems=(str(error),))
    except OSError as error:
        return RepositoryModel(name, path, problems=(_unreadable(name, error),))


def _located(home: Path, name: str, entries: list[str], links: LinkPolicy) -> Path:
    """Check the name and the path of a model, and return the path. ``home`` is the resolved path of the repository."""
    check_model_name(name)
    if len(entries) > 1:
        raise InvalidModelError(f"model {name!r} exists as {' and as '.join(entries)}: remove or rename one")
    path = home / entries[0]
    return resolve(home, entries[0], links, KIND) if path.is_symlink() else path  # resolving every path would be slow


def _unreadable(name: str, error: OSError) -> str:
    return f"model {name!r} cannot be read: {error.strerror}"


class _Reader:
    """Reads one model. ``home`` and ``path`` are the resolved paths of the repository and of the model."""

    def __init__(self, home: Path, name: str, path: Path, links: LinkPolicy) -> None:
        self._home, self._name, self._path, self._links = home, name, path, links

    def model(self, config: Fields | None) -> RepositoryModel:
        contents = contents_of(self._path, self._links)
        if config is None and self._path.is_dir():
            config = self._config()
        warnings = tuple(
            f"directory {self._name}/{name[:MAX_QUOTED]} is ignored: {VERSION_RULE}"
            for name in contents.misnamed[:MAX_LISTED]
        )
        versions, incomplete = self._versions(contents)
        try:
            policy, max_batch = policy_of(config or {}), configured_batch(config or {})
        except ValueError as error:
            raise InvalidModelError(f"the configuration of model {self._name!r} is wrong: {error}") from None
        return RepositoryModel(
            self._name, self._path, versions, incomplete, policy, config, max_batch, contents, warnings
        )

    def _config(self) -> Fields | None:
        file = self._path / FILE
        if not self._links.allows(file, file.resolve(), self._path.resolve()):
            raise InvalidModelError(
                f"{FILE} of model {self._name!r} is a link that points out of its directory: replace it with the file "
                f"({OPTION} allows its target)"
            )
        return read_config(file, self._name)

    def _versions(self, contents: Contents) -> tuple[dict[int, Path], dict[int, str]]:
        """Return the paths of the complete versions, and the reasons why the remaining versions are incomplete."""
        versions: dict[int, Path] = {}
        incomplete: dict[int, str] = {}
        for version in sorted(contents.versions):
            try:
                path = self._path / str(version)
                if path.is_symlink() or self._path.is_symlink():
                    path = resolve(self._home, f"{self._name}/{version}", self._links, KIND)
                self._check(path)
                versions[version] = path
            except (InvalidModelError, OSError) as error:
                incomplete[version] = (error.strerror or "") if isinstance(error, OSError) else str(error)
        if versions:
            return versions, incomplete
        try:
            file = self._check(self._path)
        except InvalidModelError:
            if incomplete:
                return {}, incomplete
            raise
        first = file.relative_to(self._path).parts[0] if file != self._path else ""
        if first in contents.misnamed:
            raise InvalidModelError(
                f"directory {quoted(first)} of model {self._name!r} is not a version: {VERSION_RULE}; rename it"
            )
        return {int(version_of(self._path, file)): self._path}, {}

    def _check(self, path: Path) -> Path:
        """Return the model file for a path.

        Raises:
            InvalidModelError: the file does not exist, is outside of the directory or is empty, or the choice is
                ambiguous.
        """
        if path.is_dir() and not _holds_model(path):
            raise InvalidModelError(
                f"directory {path.name!r} contains no {' or '.join(SUFFIXES)} file: add it, or remove the directory"
            )
        suffix = PROGRAM if is_program(path) else SUFFIXES[0]
        file = locate(path, suffix, "a model", self._name, self._links)
        if not file.stat().st_size:
            raise InvalidModelError(f"model file {file.name!r} is empty: write the whole file")
        return file


def _holds_model(directory: Path) -> bool:
    return any(holds(directory, suffix) for suffix in SUFFIXES)
