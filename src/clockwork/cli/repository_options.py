"""Options about model repositories and changes of models, which ``serve`` and ``controller`` share."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer
from msgspec import Struct

from clockwork.cli.parsers import one_of, size
from clockwork.controller.config import ControlMode, LoadSpec, ShadowSpec
from clockwork.units import Bytes

if TYPE_CHECKING:
    from clockwork.cli.models import NamedModel
    from clockwork.host.model_repositories import RepositoryConfig
    from clockwork.host.model_source import PushConfig
    from clockwork.repository.models import RepositoryModel
    from clockwork.repository.policy import VersionPolicy
    from clockwork.scheduling.base import Scheduler

ALL: Final = "*"
"""Value of --load-model that stands for all models of the repositories."""

ModelControlMode: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model-control-mode",
        parser=one_of("model control mode", [mode.value for mode in ControlMode]),
        metavar="MODE",
        help="When models are loaded. none: at the start only. explicit: also when a client requests it. poll: also "
        "when a model repository changes.",
    ),
]
ModelRepository: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--model-repository",
        exists=True,
        file_okay=False,
        metavar="DIR",
        show_default="none",
        help="Directory of models, each as NAME/VERSION/model.onnx or NAME/model.onnx. May be repeated.",
    ),
]
LoadModels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--load-model",
        metavar="NAME",
        show_default="none",
        help="Model of a repository to load at the start in explicit mode; * loads all. May be repeated.",
    ),
]
RepositoryPollSecs: TypeAlias = Annotated[
    float,
    typer.Option(
        "--repository-poll-secs",
        min=0.1,
        max=86_400,
        help="Seconds between two polls in poll mode. A directory is loaded when it was unchanged for this time.",
    ),
]
VersionPolicies: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--version-policy",
        metavar="NAME=POLICY",
        show_default="from config.pbtxt",
        help="Versions of a repository's model to serve: latest:N, all or specific:1,3. May be repeated.",
    ),
]
ModelLabels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME:LABEL=VERSION",
        show_default="none",
        help="Label of a version, which requests may give in place of the version. May be repeated.",
    ),
]
ModelShadows: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shadow",
        metavar="NAME=VERSION:SHARE",
        show_default="none",
        help="Version that executes copies of a share (0 to 1) of the model's requests in idle time, to compare the "
        "outputs. May be repeated.",
    ),
]


PushModels: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--push-models",
        exists=True,
        file_okay=False,
        metavar="DIR",
        show_default="none",
        help="Model root of the controller. Workers that lack a model's files receive them from this directory.",
    ),
]
PushRate: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--push-rate",
        parser=size,
        metavar="SIZE",
        show_default="64MiB",
        help="Limit of the bytes per second with which --push-models sends files to all workers together.",
    ),
]


class RepositoryOptions(Struct, frozen=True):
    """The values of the options about model repositories."""

    mode: str = ControlMode.NONE.value
    directories: tuple[Path, ...] = ()
    load_models: tuple[str, ...] = ()
    poll_seconds: float = 15.0
    policies: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()

    @property
    def control(self) -> ControlMode:
        """The control mode."""
        return ControlMode(self.mode)

    @property
    def fixed(self) -> bool:
        """Whether no model can be added after start-up."""
        return self.control is ControlMode.NONE

    def settings(self, start: "StartModels") -> dict[str, Any]:
        """Return the fields of `ControllerConfig` that the options set, except the models and their labels."""
        return {"unusable": start.unusable, "control": self.control}

    def check(self, scheduler: "Scheduler", *, emulated: bool = False) -> None:
        """Check combinations of the options.

        Raises:
            typer.BadParameter: options contradict each other, or the scheduler cannot change models.
        """
        from clockwork.scheduling.base import changes_models

        if self.directories and emulated:
            raise typer.BadParameter("emulated devices read no files; leave it out", param_hint="--model-repository")
        if self.load_models and self.control is not ControlMode.EXPLICIT:
            raise typer.BadParameter("--load-model needs --model-control-mode explicit", param_hint="--load-model")
        if self.load_models and not self.directories:
            raise typer.BadParameter("--load-model needs --model-repository DIR", param_hint="--load-model")
        if ALL in self.load_models and len(self.load_models) > 1:
            raise typer.BadParameter(f"{ALL} loads all models; leave out the names", param_hint="--load-model")
        if self.control is ControlMode.POLL and not self.directories:
            raise typer.BadParameter(
                "mode poll needs --model-repository with the directory to poll", param_hint="--model-control-mode"
            )
        if self.control is not ControlMode.NONE and not changes_models(scheduler):
            name = type(scheduler).name or type(scheduler).__name__
            raise typer.BadParameter(
                f"scheduler {name} cannot add and remove models while serving, because it has no model_added and "
                "model_removed; use mode none or another scheduler",
                param_hint="--model-control-mode",
            )

    def version_labels(self) -> dict[str, dict[str, str]]:
        """Return, by model name, a table that maps the model's labels to versions.

        Raises:
            typer.BadParameter: a label is wrong.
        """
        from clockwork.repository.labels import parse_labels

        with _faults_of("--label"):
            versions = parse_labels(self.labels).versions
        return {name: {label: str(number) for label, number in given.items()} for name, given in versions.items()}

    def version_shadows(self) -> dict[str, ShadowSpec]:
        """Return the shadows by the name of their model.

        Raises:
            typer.BadParameter: a shadow is wrong.
        """
        from clockwork.controller.shadow_specs import parse_shadows

        with _faults_of("--shadow"):
            return parse_shadows(self.shadows)

    def version_policies(self) -> "dict[str, VersionPolicy]":
        """Return the version policies by model name.

        Raises:
            typer.BadParameter: a policy is wrong.
        """
        from clockwork.repository.policy import parse_policies

        with _faults_of("--version-policy"):
            return parse_policies(self.policies)

    def model_root(self, named: "Sequence[NamedModel]", chosen: Path | None) -> Path:
        """Return the workers' model root. The root contains the repositories and the ``named`` models.

        Raises:
            typer.BadParameter: a repository is outside of the ``chosen`` root.
        """
        from clockwork.cli.models import common_root

        directories = [directory.absolute() for directory in self.directories]
        if chosen is None:
            parents = [common_root(named)] if named else []
            return Path(os.path.commonpath([*parents, *directories]))
        for directory in directories:
            if not directory.is_relative_to(chosen.absolute()):
                raise typer.BadParameter(
                    f"{directory} is outside of the model root {chosen.absolute()}; leave out the option",
                    param_hint="--model-root",
                )
        return chosen.absolute()


@contextmanager
def _faults_of(option: str) -> Iterator[None]:
    """Return a context that reports an invalid value as a fault of this option."""
    from clockwork.errors import InvalidRequestError

    try:
        yield
    except InvalidRequestError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def repository_options(
    mode: str,
    poll_seconds: float,
    directories: list[Path] | None,
    load_models: list[str] | None,
    policies: list[str] | None,
    labels: list[str] | None,
    shadows: list[str] | None,
) -> RepositoryOptions:
    """Return the options of a command as one object."""
    given = (tuple(directories or ()), tuple(load_models or ()))
    versions = (tuple(policies or ()), tuple(labels or ()), tuple(shadows or ()))
    return RepositoryOptions(mode, *given, poll_seconds, *versions)


def push_options(
    directory: Path | None, rate: Bytes, options: RepositoryOptions, root: Path, links: Sequence[Path]
) -> "PushConfig | None":
    """Return what the controller sends to workers, or None if it sends no files.

    ``root`` is the model root to which the paths of the repositories' models are relative.

    Raises:
        typer.BadParameter: the repositories' paths are relative to another directory.
    """
    if directory is None:
        return None
    from clockwork.host.model_source import PushConfig
    from clockwork.runtimes.links import LinkPolicy

    chosen = directory.absolute()
    if options.directories and chosen.resolve() != root.resolve():
        raise typer.BadParameter(
            f"{directory} is not the model root of --model-repository; use {root}", param_hint="--push-models"
        )
    return PushConfig(chosen, LinkPolicy((chosen,), tuple(link.absolute() for link in links)), rate)


class StartModels(Struct, frozen=True):
    """The models of the repositories at the start.

    - ``specs``: the models to load
    - ``unusable``: models that cannot be loaded, with the reasons
    - ``config``: how the repositories are read, or None if there are no repositories
    """

    specs: tuple[LoadSpec, ...] = ()
    unusable: dict[str, str] = {}
    config: "RepositoryConfig | None" = None


def start_models(options: RepositoryOptions, root: Path, links: Sequence[Path], *, fresh: bool) -> StartModels:
    """Read the repositories.

    Args:
        options: the options.
        root: the workers' model root.
        links: values of ``--allow-links-to``.
        fresh: whether no worker holds models yet.

    Raises:
        InvalidRequestError: a repository cannot be read.
    """
    if not options.directories:
        return StartModels()
    from clockwork.errors import InvalidRequestError
    from clockwork.host.model_repositories import RepositoryConfig, wanted
    from clockwork.runtimes.links import LinkPolicy
    from clockwork.units import seconds

    config = RepositoryConfig(
        tuple(directory.absolute() for directory in options.directories),
        root,
        seconds(options.poll_seconds),
        options.version_policies(),
        LinkPolicy((), tuple(link.absolute() for link in links)),
    )
    specs: list[LoadSpec] = []
    unusable: dict[str, str] = {}
    found = _models(config)
    chosen = options.load_models if options.control is ControlMode.EXPLICIT else (ALL,)
    names = sorted(found) if ALL in chosen else list(dict.fromkeys(chosen))
    loaded: dict[str, str] = {}
    for name in names:
        if name not in found:
            unusable[name] = "it is not in a model repository: check the name"
            continue
        directory, model = found[name]
        if fresh and model.contents is not None:
            loaded[name] = model.contents.fingerprint
        try:
            versions = wanted(config, directory, model)
        except InvalidRequestError as error:
            unusable[name] = str(error)
            continue
        specs += [LoadSpec(version.path, name, 1, version.number) for version in versions]
    return StartModels(tuple(specs), unusable, _with_loaded(config, loaded))


def _models(config: "RepositoryConfig") -> "dict[str, tuple[Path, RepositoryModel]]":
    """Return all models of the repositories by name."""
    from clockwork.host.model_repositories import ambiguous
    from clockwork.repository.models import list_models

    found: dict[str, tuple[Path, RepositoryModel]] = {}
    for directory in config.directories:
        for model in list_models(directory, config.links):
            other = found.get(model.name)
            found[model.name] = (directory, model if other is None else ambiguous(other[1], model))
    return found


def _with_loaded(config: "RepositoryConfig", loaded: dict[str, str]) -> "RepositoryConfig":
    from msgspec.structs import replace

    return replace(config, loaded=loaded)
