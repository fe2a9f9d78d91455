"""Emulated devices, as an operator asks for them: ``--emulate 8 --profile resnet50-v100``."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec.structs import replace

from clockwork.cli.given import check_names
from clockwork.controller.config import LoadSpec
from clockwork.errors import InvalidRequestError
from clockwork.host.worker import PAGE_SIZE
from clockwork.paced.from_status import models_of
from clockwork.paced.models import PROFILES, PacedModel
from clockwork.units import Bytes, Pages, show_bytes

CACHE: Final[Bytes] = 1376 * PAGE_SIZE
"""Weights cache of an emulated device unless something else is asked for: that of the paper's GPUs, 1,376 pages."""


def check_emulated(devices: int | None, profiles: Sequence[str] | None) -> None:
    """Whether the two options come together.

    Raises:
        typer.BadParameter: one came without the other.
    """
    if profiles and not devices:
        raise typer.BadParameter("it is for emulated devices: say how many with --emulate N", param_hint="--profile")
    if devices and not profiles:
        raise typer.BadParameter(
            f"--emulate needs to know how long things take: {', '.join(PROFILES)}, or a file", param_hint="--profile"
        )


def emulated_models(profiles: Sequence[str] | None) -> dict[str, PacedModel]:
    """The models that emulated devices can take for real, by path, which is a name.

    Raises:
        typer.BadParameter: one is neither built in nor a file, or two have one name.
    """
    models: dict[str, PacedModel] = {}
    for profile in profiles or ():
        for model in _read(profile):
            if model.path in models:
                raise typer.BadParameter(f"two profiles are called {model.path}", param_hint="--profile")
            models[model.path] = model
    return models


def pages(cache_size: Bytes | None) -> Pages:
    """Pages of each emulated device's weights cache.

    Raises:
        typer.BadParameter: there is not a single one.
    """
    made = (CACHE if cache_size is None else cache_size) // PAGE_SIZE
    if not made:
        raise typer.BadParameter(f"it has no room for a page of {show_bytes(PAGE_SIZE)}", param_hint="--cache-size")
    return made


def emulated_specs(given: Sequence[str], copies: int, models: Sequence[str]) -> tuple[LoadSpec, ...]:
    """What to load of the ``models`` that there are: ``PROFILE``, ``NAME=PROFILE``, with ``:COPIES``; all, if none.

    Raises:
        typer.BadParameter: one is not there, or names clash.
    """
    if not given:
        return check_names([LoadSpec(path, path, copies) for path in models])
    return check_names([_spec(text, copies, models) for text in given])


def _spec(text: str, copies: int, models: Sequence[str]) -> LoadSpec:
    name, equals, rest = text.partition("=")
    path, colon, number = (rest if equals else text).rpartition(":")
    if not colon or not number.isascii() or not number.isdigit():
        path, number = rest if equals else text, str(copies)
    if path not in models:
        raise typer.BadParameter(
            f"there is no profile {path!r} among {', '.join(models[:5])}: write PROFILE, or NAME=PROFILE:COPIES",
            param_hint="MODELS",
        )
    return LoadSpec(path, name if equals else path, int(number))


def _read(profile: str) -> list[PacedModel]:
    if profile in PROFILES:
        return [_under(profile, PacedModel(profile, profile, PROFILES[profile]))]
    try:
        state = json.loads(Path(profile).read_bytes())
        if not isinstance(state, dict):
            raise TypeError("it is no object")
        return [_under(model.path.removesuffix(".onnx"), model) for model, _ in models_of(state)]
    except (OSError, ValueError, TypeError, RecursionError, InvalidRequestError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise typer.BadParameter(
            f"{profile!r} is neither {' nor '.join(PROFILES)}, nor a file of clockwork status --json: {reason}",
            param_hint="--profile",
        ) from None


def _under(path: str, model: PacedModel) -> PacedModel:
    """The model under another path; its digest tells it from one of other times."""
    content = msgspec.json.encode((model.digest, model.profile))
    return replace(model, path=path, digest=hashlib.sha256(content).hexdigest())
