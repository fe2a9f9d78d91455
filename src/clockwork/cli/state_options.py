"""Options for the state directory of ``serve`` and ``controller``, and the models that are restored from it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from msgspec import Struct
from msgspec.structs import replace

from clockwork.cli import logs
from clockwork.cli.configuration import is_dry_run
from clockwork.cli.parsers import duration
from clockwork.cli.repository_options import RepositoryOptions, StartModels
from clockwork.controller.config import ControlMode, DesiredModels, LoadSpec
from clockwork.units import Nanos

if TYPE_CHECKING:
    from clockwork.cli.models import NamedModel
    from clockwork.host.state_store import Arguments, StoredState

StateDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        file_okay=False,
        metavar="DIR",
        show_default="none",
        help="Directory that keeps the served models, versions, labels and shadows, so that a restart restores them.",
    ),
]
StateWait: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--state-wait",
        parser=duration,
        metavar="DURATION",
        show_default="30s",
        help="Longest time that a restart with --state-dir waits for the workers that were connected before.",
    ),
]


class StateOptions(Struct, frozen=True):
    """The values of the options for the state directory, and the state that an earlier process stored there, if any."""

    directory: Path | None
    wait: Nanos
    state: "StoredState | None" = None

    def files(self) -> "list[NamedModel]":
        """Return the files of the stored models.

        If the workers choose their model roots, the result is empty.
        """
        from clockwork.cli.models import NamedModel

        if self.state is None or not self.state.arguments.root:
            return []
        root = Path(self.state.arguments.root)
        return [NamedModel(root / spec.path, spec.name, spec.no_of_copies) for spec in self.state.desired.models]

    def plan(
        self,
        given: Iterable[LoadSpec],
        start: StartModels,
        repository: RepositoryOptions,
        slos: list[str] | None,
        root: Path,
        *,
        workers: int = 1,
        local: bool = True,
    ) -> "StartPlan":
        """Return how a server starts: with the models of its arguments, and with the stored models.

        Args:
            given: the models that the arguments name.
            start: the models of the repositories.
            repository: the options about repositories.
            slos: values of ``--model-slo``.
            root: the workers' model root.
            workers: number of workers to wait for.
            local: whether this command starts the worker.
        """
        from clockwork.cli.models import model_slos
        from clockwork.host.state_store import Arguments, StateConfig

        labels, own_root = repository.version_labels(), str(root) if local and root.is_absolute() else ""
        arguments = Arguments((*given, *start.specs), labels, own_root, repository.version_shadows())
        settings = {**repository.settings(start), **self._merged(arguments, root, repository)}
        models: tuple[LoadSpec, ...] = settings["models"]
        saved = DesiredModels() if self.state is None else self.state.desired
        known = models if local and repository.fixed else None
        settings["model_slos"] = {**saved.slos, **model_slos(slos, known)}
        settings["workers"] = max(workers, saved.workers)
        if self.directory is None:
            return StartPlan(models, settings, {"repository": start.config})
        config = start.config
        if config is not None:  # with a repository configuration, the files of load requests are kept
            config = replace(config, durable=True, restored=tuple(spec.path for spec in models))
        return StartPlan(
            models, settings, {"repository": config, "state": StateConfig(self.directory.absolute(), arguments)}
        )

    def _merged(self, given: "Arguments", root: Path, repository: RepositoryOptions) -> dict[str, Any]:
        """Return the fields of `ControllerConfig` for the given models and the stored models."""
        from clockwork.controller.desired import merge, merge_labels
        from clockwork.controller.shadow_specs import merge_shadows

        if self.directory is None or self.state is None:
            return {
                "models": given.models,
                "labels": given.labels,
                "shadows": given.shadows,
                "saves_models": self.directory is not None,
            }
        before, saved = self.state.arguments, self.state.desired
        models_before, models_saved = before.models, saved.models
        if before.root and given.root:
            old, new = Path(before.root), Path(given.root)
            models_before = _rebased(models_before, old, new)
            models_saved = _inside(_rebased(models_saved, old, new), new)
        if repository.control is ControlMode.POLL:  # here the repositories decide which models are served
            models_before = _outside(models_before, root, repository.directories)
            models_saved = _outside(models_saved, root, repository.directories)
        return {
            "models": merge(models_saved, given.models, models_before),
            "labels": merge_labels(saved.labels, given.labels, before.labels),
            "promoted": saved.promoted,
            "shadows": merge_shadows(saved.shadows, given.shadows, before.shadows),
            "only_named": True,
            "worker_wait": self.wait,
            "saves_models": True,
        }


class StartPlan(Struct, frozen=True):
    """How a server starts.

    - ``models``: the models to load
    - ``settings``: fields of `ControllerConfig`
    - ``host``: fields of `ControllerHostConfig`
    """

    models: tuple[LoadSpec, ...]
    settings: dict[str, Any]
    host: dict[str, Any]


def state_options(directory: Path | None, wait: Nanos) -> StateOptions:
    """Return the values of the options, and read the stored state. A file that cannot be used is reported."""
    if directory is None or is_dry_run():
        return StateOptions(directory, wait)
    from clockwork.host.state_store import load_state

    state, fault = load_state(directory)
    if fault:
        logs.warn_at_start(fault)
    return StateOptions(directory, wait, state)


def _rebased(specs: Iterable[LoadSpec], old: Path, new: Path) -> tuple[LoadSpec, ...]:
    """Return models whose paths are relative to the root ``new`` instead of ``old``."""
    return tuple(replace(spec, path=Path(os.path.relpath(old / spec.path, new)).as_posix()) for spec in specs)


def _inside(specs: Iterable[LoadSpec], root: Path) -> tuple[LoadSpec, ...]:
    """Return the models inside the model root. Report the models outside the root."""
    kept = []
    for spec in specs:
        if spec.path.startswith("../"):
            logs.warn_at_start(f"model {spec.name} is not restored: {root / spec.path} is outside of the model root")
        else:
            kept.append(spec)
    return tuple(kept)


def _outside(specs: Iterable[LoadSpec], root: Path, directories: Iterable[Path]) -> tuple[LoadSpec, ...]:
    """Return the models that are in none of the repositories."""
    repositories = [directory.absolute() for directory in directories]
    return tuple(
        spec for spec in specs if not any((root / spec.path).is_relative_to(directory) for directory in repositories)
    )
