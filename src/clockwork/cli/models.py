"""Parses the models on a command line, and options for single models.

A model on a command line is ``PATH``, ``NAME=PATH``, ``PATH:COPIES`` or ``NAME=PATH:COPIES``. If the whole text is an
existing path, it is treated as a path only. For emulated devices, a model is the name of a profile.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec import Struct
from msgspec.structs import replace

from clockwork.cli.parsers import duration
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.naming import model_name_from_path
from clockwork.errors import InvalidRequestError
from clockwork.host.worker import PAGE_SIZE
from clockwork.messages.actions import model_names
from clockwork.messages.faults import unknown_model
from clockwork.paced.from_status import models_of
from clockwork.paced.models import PROFILES, PacedModel
from clockwork.runtimes.links import LinkPolicy
from clockwork.units import Bytes, Nanos, Pages, show_bytes

EMULATED_CACHE_BYTES: Final[Bytes] = 1376 * PAGE_SIZE
"""Default size of an emulated device's weights cache.

The cache has 1,376 pages, like the GPUs in the Clockwork paper.
"""

_MODEL: Final = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]*)=)?(.+?)(?::(\d{1,9}))?")


# ---------------------------------------------------------------------------------------------- model files


class NamedModel(Struct, frozen=True):
    """A model on the command line. ``path`` is the absolute path of an existing file or directory."""

    path: Path
    name: str
    copies: int


def parse_model(text: str, copies: int = 1) -> NamedModel:
    """Parse one model on a command line. ``copies`` is the number of copies if the text contains no number.

    Raises:
        typer.BadParameter: the file or directory does not exist.
    """
    name, path, number = "", text, None
    if not Path(path).exists() and (found := _MODEL.fullmatch(text)) is not None:
        name, path, number = found[1] or "", found[2], found[3]
    if not path or not Path(path).exists():
        raise typer.BadParameter(
            f"model file {path!r} does not exist; give a .onnx or .pt2 file, or a directory that contains one",
            param_hint="MODELS",
        )
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.resolve() would follow links
    return NamedModel(Path(absolute), name or model_name_from_path(absolute), copies if number is None else int(number))


def parse_remote_model(text: str) -> LoadSpec:
    """Parse a model whose path is relative to the workers' model roots. The path is not checked here."""
    found = _MODEL.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"invalid model {text!r}; examples: a.onnx, b=c.onnx, a.onnx:20", param_hint="MODELS")
    return LoadSpec(found[2], found[1] or model_name_from_path(found[2]), int(found[3] or 1))


def common_root(models: Sequence[NamedModel]) -> Path:
    """Return the deepest directory that contains all models.

    If a model is a link, its target must be inside the directory too.
    """
    parents = [str(parent) for model in models for parent in (model.path.parent, model.path.resolve().parent)]
    return Path(os.path.commonpath(parents))


def link_policy(root: Path, specs: Iterable[LoadSpec], targets: Iterable[Path]) -> LinkPolicy:
    """Return the policy that decides which links the worker may follow.

    ``targets`` are the values of ``--allow-links-to``.
    """
    paths = (root / spec.path for spec in specs)
    named = sorted({path if path.is_dir() else path.parent for path in paths})
    return LinkPolicy(tuple(named), tuple(target.absolute() for target in targets))


def load_specs(models: Sequence[NamedModel], root: Path) -> tuple[LoadSpec, ...]:
    """Return the load specs for models, with paths relative to the model root ``root``.

    Raises:
        typer.BadParameter: a model is outside of the root, two models have the same name, or a model has too many
            copies.
    """
    outside = [str(model.path) for model in models if not model.path.is_relative_to(root)]
    if outside:
        raise typer.BadParameter(
            f"{', '.join(outside)} is outside of the model root {root}; leave out the option", param_hint="--model-root"
        )
    return check_specs(
        [LoadSpec(model.path.relative_to(root).as_posix(), model.name, model.copies) for model in models]
    )


def check_specs(specs: Sequence[LoadSpec]) -> tuple[LoadSpec, ...]:
    """Return the specs unchanged, if one server can load all of them.

    Raises:
        typer.BadParameter: two models have the same name, or a model has too many copies.
    """
    max_copies = ControllerConfig().max_copies
    for spec in specs:
        if not 1 <= spec.no_of_copies <= max_copies:
            raise typer.BadParameter(
                f"model {spec.name!r} has {spec.no_of_copies} copies; 1 to {max_copies} are possible",
                param_hint="MODELS",
            )
    names = Counter(name for spec in specs for name in model_names(spec.name, spec.no_of_copies))
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise typer.BadParameter(
            f"several models are named {', '.join(twice[:5])}; rename one with NAME=PATH", param_hint="MODELS"
        )
    return tuple(specs)


# ------------------------------------------------------------------------------------- options by model name


def model_slos(texts: Iterable[str] | None, specs: Iterable[LoadSpec] | None = None) -> dict[str, Nanos]:
    """Parse the values of ``--model-slo``. ``specs`` are the models that will be loaded, or None if they are unknown.

    Raises:
        typer.BadParameter: a value is not ``NAME=DURATION``, a name is repeated, or no model has the name.
    """
    option = "--model-slo"
    slos: dict[str, Nanos] = {}
    for text in texts or ():
        name, _, value = text.rpartition("=")
        if not name:
            raise typer.BadParameter(f"invalid NAME=DURATION {text!r}; example: resnet50=250ms", param_hint=option)
        if name in slos:
            raise typer.BadParameter(f"model {name!r} has two SLOs; give one", param_hint=option)
        slos[name] = duration(value)
    if specs is not None:
        known = {name for spec in specs for name in (spec.name, *model_names(spec.name, spec.no_of_copies))}
        _check_names(slos, known, option)
    return slos


def batching_names(names: list[str] | None, specs: tuple[LoadSpec, ...] | None, option: str) -> tuple[str, ...]:
    """Check and return the model names that ``--no-batching`` or ``--allow-batching`` has as values.

    ``specs`` are the models, or None if they are unknown.

    Raises:
        typer.BadParameter: no model has the name.
    """
    if specs is not None:
        _check_names(names or (), {spec.name for spec in specs}, option)
    return tuple(names or ())


def model_shapes(texts: Iterable[str] | None, specs: Iterable[LoadSpec] | None = None) -> tuple[str, ...]:
    """Check and return the values of ``--model-shape``. ``specs`` are the models, or None if they are unknown.

    Raises:
        typer.BadParameter: a value is not ``NAME:INPUT=SHAPE``, or no model has the name.
    """
    from clockwork.runtimes.given import OPTION, shapes_by_model

    values = tuple(texts or ())
    try:
        shapes = shapes_by_model(values)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=OPTION) from None
    if specs is not None:
        _check_names(shapes, {spec.name for spec in specs}, OPTION)
    return values


def _check_names(names: Iterable[str], known: Iterable[str], option: str) -> None:
    for name in names:
        if name not in known:
            raise typer.BadParameter(unknown_model(name, known), param_hint=option)


# --------------------------------------------------------------------------------------------- emulated devices


def check_emulated(devices: int | None, profiles: Sequence[str] | None) -> None:
    """Check that ``--emulate`` and ``--profile`` are given together.

    Raises:
        typer.BadParameter: only one of the two options is given.
    """
    if profiles and not devices:
        raise typer.BadParameter("--profile needs --emulate with the number of devices", param_hint="--profile")
    if devices and not profiles:
        raise typer.BadParameter(
            f"--emulate needs --profile with {', '.join(PROFILES)}, or a file from clockwork status --json",
            param_hint="--profile",
        )


def emulated_models(profiles: Sequence[str] | None) -> dict[str, PacedModel]:
    """Return the models that emulated devices can load. The key is the model's path, which is the name of its profile.

    Raises:
        typer.BadParameter: a profile is neither built in nor a file, or two profiles have the same name.
    """
    models: dict[str, PacedModel] = {}
    for profile in profiles or ():
        for model in _read_profile(profile):
            if model.path in models:
                raise typer.BadParameter(f"two profiles are named {model.path}; leave one out", param_hint="--profile")
            models[model.path] = model
    return models


def emulated_pages(cache_size: Bytes | None) -> Pages:
    """Return the number of pages in the weights cache of each emulated device.

    Raises:
        typer.BadParameter: the cache is smaller than a page.
    """
    cache_bytes = EMULATED_CACHE_BYTES if cache_size is None else cache_size
    if cache_bytes < PAGE_SIZE:
        raise typer.BadParameter(
            f"weights cache of {show_bytes(cache_bytes)} is smaller than a page of {show_bytes(PAGE_SIZE)}",
            param_hint="--cache-size",
        )
    return cache_bytes // PAGE_SIZE


def emulated_specs(texts: Sequence[str], copies: int, profiles: Sequence[str]) -> tuple[LoadSpec, ...]:
    """Parse models that have the name of a profile in place of a path. If ``texts`` is empty, load every profile.

    Raises:
        typer.BadParameter: a profile is unknown, two models have the same name, or a model has too many copies.
    """
    if not texts:
        return check_specs([LoadSpec(path, path, copies) for path in profiles])
    return check_specs([_emulated_spec(text, copies, profiles) for text in texts])


def _emulated_spec(text: str, copies: int, profiles: Sequence[str]) -> LoadSpec:
    name, equals, rest = text.partition("=")
    path, colon, number = (rest if equals else text).rpartition(":")
    if not colon or not number.isascii() or not number.isdigit():
        path, number = rest if equals else text, str(copies)
    if path not in profiles:
        raise typer.BadParameter(
            f"unknown profile {path!r}; expected one of: {', '.join(profiles[:5])}, as PROFILE or NAME=PROFILE:COPIES",
            param_hint="MODELS",
        )
    return LoadSpec(path, name if equals else path, int(number))


def _read_profile(profile: str) -> list[PacedModel]:
    if profile in PROFILES:
        return [_with_path(profile, PacedModel(profile, profile, PROFILES[profile]))]
    try:
        state = json.loads(Path(profile).read_bytes())
        if not isinstance(state, dict):
            raise TypeError("the JSON is not an object")
        return [_with_path(model.path.removesuffix(".onnx"), model) for model, _ in models_of(state)]
    except (OSError, ValueError, TypeError, RecursionError, InvalidRequestError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise typer.BadParameter(
            f"{profile!r} is not a built-in profile ({', '.join(PROFILES)}) or a file from clockwork status --json: "
            f"{reason}",
            param_hint="--profile",
        ) from None


def _with_path(path: str, model: PacedModel) -> PacedModel:
    """Return a copy of the model with this path, and with a digest of its times."""
    content = msgspec.json.encode((model.digest, model.profile))
    return replace(model, path=path, digest=hashlib.sha256(content).hexdigest())
