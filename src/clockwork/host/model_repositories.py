"""Finds the versions of models in a server's repositories, and writes the files that a load request contains.

Workers get paths relative to their model roots. `RepositoryConfig.model_root` is the path of this root on this host.
The root contains all repositories. The files of a load request are written into a temporary directory of the
repository, so that workers can read them. The directory is removed when no model needs its files any more.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from clockwork.clock import Clock, MonotonicClock
from clockwork.errors import InvalidModelError, InvalidRequestError, ServerError
from clockwork.host.repository_watcher import RepositoryWatcher
from clockwork.messages.faults import quoted
from clockwork.messages.requests import ModelVersion
from clockwork.repository.models import RepositoryModel, find_model, wanted_versions
from clockwork.repository.overrides import LoadOverride, OverrideLimits, load_override, write_override
from clockwork.repository.policy import VersionPolicy
from clockwork.runtimes.config_pbtxt import configured_batch
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.scratch import PREFIX, ScratchDirectory, sweep
from clockwork.units import SECOND, Nanos, as_seconds

DEFAULT_POLL: Final[Nanos] = 15 * SECOND
"""Triton's default of --repository-poll-secs."""

UNUSED: Final[Nanos] = 60 * SECOND
"""Time after which the files of a load request are removed if no model needs them. The load itself must begin within
this time after its files were written.
"""


class RepositoryConfig(Struct, frozen=True):
    """The repositories of a server.

    - ``model_root``: the workers' model root, which contains the ``directories``
    - ``interval``: time between two polls
    - ``policies``: version policies that replace the policies in models' configurations, by model name
    - ``links``: the policy that decides which links in the repositories are followed
    - ``durable``: whether the files of a load request are kept for a restart, as long as a model needs them
    - ``loaded``: fingerprints of the models that start-up loads, by name
    - ``restored``: paths of models that an earlier process loaded and that start-up loads again
    """

    directories: tuple[Path, ...]
    model_root: Path
    interval: Nanos = DEFAULT_POLL
    policies: dict[str, VersionPolicy] = {}
    links: LinkPolicy = NO_LINKS
    durable: bool = False
    restored: tuple[str, ...] = ()
    loaded: dict[str, str] = {}


@dataclass(eq=False)
class _Brought:
    """A directory with the files of a load request."""

    directory: ScratchDirectory
    path: str  #: below the model root
    since: Nanos  #: last time at which the files were needed


class ModelRepositories:
    """Reads the repositories of a server. Use this object on one running event loop."""

    def __init__(self, config: RepositoryConfig | None, in_use: Callable[[], set[str]]) -> None:
        """If ``config`` is None, the server has no repository. ``in_use`` returns the paths that models need now."""
        self._config = config
        self._in_use = in_use
        self._clock: Clock = MonotonicClock()
        self._brought: list[_Brought] = []
        self._removal: asyncio.TimerHandle | None = None  #: set while there are files of load requests
        self._loaded = {} if config is None else dict(config.loaded)
        self.watchers: dict[Path, RepositoryWatcher] = {}  #: by directory
        if config is not None:
            interval = as_seconds(config.interval)
            self.watchers = {path: RepositoryWatcher(path, interval, config.links) for path in config.directories}
            for path in config.directories:
                self._adopt(config, path)

    def __bool__(self) -> bool:
        return bool(self.watchers)

    def close(self) -> None:
        """Stop reading, and remove the files of load requests that a restart does not need."""
        for watcher in self.watchers.values():
            watcher.close()
        if self._removal is not None:
            self._removal.cancel()
        needed = self._in_use() if self._brought and self._config is not None and self._config.durable else set()
        for brought in self._brought:
            if _is_needed(brought.path, needed):
                brought.directory.release()
            else:
                brought.directory.remove()
        self._brought = []

    async def resolve(self, name: str, parameters: Mapping[str, Any]) -> tuple[ModelVersion, ...]:
        """Return the versions that a request to load ``name`` must load.

        Triton defines the parameters ``config`` and ``file:...``. Other parameters are ignored.

        Raises:
            InvalidRequestError: no repository has the model, the model cannot be loaded, or a parameter is wrong.
            RequestRefusedError: too many calls wait.
            ServerError: the files of the load cannot be written.
        """
        config = self._checked()
        self.remove_unused()
        override = await asyncio.to_thread(load_override, parameters, OverrideLimits()) if parameters else None
        if override is not None and override.files:
            place = config.directories[0]
            return await self._bring(name, override, place)
        directory, model = await self._find(name, override)
        if override is not None and await self._replaces_batch(override, directory, name):
            return await self._bring(name, _linked(override), directory, model)
        return self._versions(directory, model)

    async def models(self) -> list[RepositoryModel]:
        """Return all models of all repositories, ordered by name.

        Raises:
            ServerError: a repository cannot be read, or has too many entries.
            RequestRefusedError: the server is shutting down.
        """
        found: dict[str, RepositoryModel] = {}
        for watcher in self.watchers.values():
            try:
                models = await watcher.models()
            except InvalidRequestError as error:  # a fault of the server, not of the request
                raise ServerError(f"{error}; restore it, or request only the models that are ready") from error
            for model in models:
                other = found.get(model.name)
                found[model.name] = model if other is None else ambiguous(other, model)
        policies = {} if self._config is None else self._config.policies
        return [replace(found[name], policy=policies.get(name, found[name].policy)) for name in sorted(found)]

    def versions_of(self, directory: Path, model: RepositoryModel) -> tuple[ModelVersion, ...]:
        """Return the versions of a model that should be served. ``directory`` is the model's repository.

        Raises:
            InvalidModelError: the model cannot be loaded.
        """
        return self._versions(directory, model)

    def take_loaded(self, name: str) -> str:
        """Return the fingerprint that the files of a model had at start-up.

        Later calls for the model return an empty text.
        """
        return self._loaded.pop(name, "")

    def remove_unused(self) -> None:
        """Remove the files of earlier loads that no model needs any more."""
        now, needed = self._clock.now(), self._in_use() if self._brought else set()
        kept = []
        for brought in self._brought:
            if _is_needed(brought.path, needed):
                brought.since = now
            if now - brought.since < UNUSED:
                kept.append(brought)
            else:
                brought.directory.remove()
        self._brought = kept
        self._plan_removal()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _plan_removal(self) -> None:
        if self._brought and self._removal is None:
            self._removal = asyncio.get_running_loop().call_later(as_seconds(UNUSED), self._remove_later)

    def _remove_later(self) -> None:
        self._removal = None
        self.remove_unused()

    def _adopt(self, config: RepositoryConfig, repository: Path) -> None:
        """Keep those files of an earlier process that restored models need, and remove the rest."""
        needed = set(config.restored)
        keep: list[Path] = []
        for path in repository.glob(f"{PREFIX}*"):
            below = _below(config.model_root, path)
            if _is_needed(below, needed):
                keep.append(path)
                with suppress(OSError):  # another process uses the directory
                    self._brought.append(_Brought(ScratchDirectory(repository, path), below, self._clock.now()))
        sweep(repository, keep)

    def _checked(self) -> RepositoryConfig:
        if self._config is None:
            raise InvalidRequestError("the server has no model repository; start it with --model-repository DIR")
        return self._config

    async def _find(self, name: str, override: LoadOverride | None) -> tuple[Path, RepositoryModel]:
        """Return a model, and the repository that has it."""
        config = self._checked()
        fields = None if override is None else override.config
        found: dict[Path, RepositoryModel] = {}
        missing: InvalidModelError | None = None
        for directory, watcher in self.watchers.items():
            try:
                found[directory] = await watcher.find(name, fields)
            except InvalidModelError as error:
                missing = error
        if not found:
            assert missing is not None, config
            raise missing
        (directory, model), *others = found.items()
        for _, other in others:
            model = ambiguous(model, other)
        return directory, model

    async def _replaces_batch(self, override: LoadOverride, directory: Path, name: str) -> bool:
        """Return whether a load's max_batch_size differs from the value in config.pbtxt, which workers read."""
        on_disk = await self.watchers[directory].find(name)
        return bool(on_disk.problems) or on_disk.max_batch_size != configured_batch(override.config)

    def _versions(self, directory: Path, model: RepositoryModel) -> tuple[ModelVersion, ...]:
        config = self._checked()
        return wanted(config, directory, model)

    async def _bring(
        self, name: str, override: LoadOverride, place: Path, linked: RepositoryModel | None = None
    ) -> tuple[ModelVersion, ...]:
        """Write the files of a load into a new directory. Return the versions in this directory.

        If ``linked`` is a model, the directory contains links to the versions of this model.
        """
        config = self._checked()
        if linked is not None and any(not path.is_dir() for path in linked.versions.values()):
            raise InvalidRequestError(
                f"parameter config changes max_batch_size, but model {quoted(name)} is a single file; move it to "
                f"{name}/1/model.onnx"
            )
        directory = await asyncio.to_thread(write_override, override, name, place)
        try:
            if linked is not None:
                for number, path in linked.versions.items():
                    (directory.path / name / str(number)).symlink_to(path)
            links = LinkPolicy((directory.path / name,), config.links.targets) if linked is not None else NO_LINKS
            model = await asyncio.to_thread(find_model, directory.path, name, links, override.config)
            versions = self._versions(directory.path, model)
        except BaseException:
            directory.remove()
            raise
        below = _below(config.model_root, directory.path)
        self._brought.append(_Brought(directory, below, self._clock.now()))
        self._plan_removal()
        return versions


def wanted(config: RepositoryConfig, directory: Path, model: RepositoryModel) -> tuple[ModelVersion, ...]:
    """Return the versions of a model that are served, with their paths below the workers' model roots.

    Raises:
        InvalidModelError: the model cannot be loaded.
    """
    if model.name in config.policies:
        model = replace(model, policy=config.policies[model.name])
    home, base = directory.resolve(), _below(config.model_root, directory)
    numbers = wanted_versions(model)
    paths = [model.versions[number].relative_to(home).as_posix() for number in numbers]
    prefix = "" if base == "." else f"{base}/"
    return tuple(ModelVersion(str(number), prefix + path) for number, path in zip(numbers, paths, strict=True))


def ambiguous(one: RepositoryModel, other: RepositoryModel) -> RepositoryModel:
    """Return the model with an additional problem: two repositories have a model of this name."""
    text = f"model {one.name!r} is in {str(one.path.parent)!r} and in {str(other.path.parent)!r}: remove one"
    return replace(one, problems=(text, *one.problems))


def _linked(override: LoadOverride) -> LoadOverride:
    return LoadOverride(override.config)


def _is_needed(directory: str, paths: set[str]) -> bool:
    """Return whether one of the paths lies in the directory."""
    return any(path.startswith(f"{directory}/") for path in paths)


def _below(root: Path, path: Path) -> str:
    """Return a path relative to the model root, without resolving links."""
    return os.path.relpath(os.path.abspath(path), os.path.abspath(root))  # noqa: PTH100
