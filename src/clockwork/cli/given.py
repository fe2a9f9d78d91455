"""The models that an operator names: ``PATH``, ``NAME=PATH``, ``PATH:COPIES``, ``NAME=PATH:COPIES``.

Rules of the file: a path that exists as it stands is that path, whatever characters it contains.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer
from msgspec import Struct

from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.naming import model_name_from_path
from clockwork.messages.actions import model_names

_GIVEN: Final = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]*)=)?(.+?)(?::(\d{1,9}))?")


class GivenModel(Struct, frozen=True):
    """One model that was named; ``path`` is absolute and exists."""

    path: Path
    name: str
    copies: int


def parse_model(text: str, copies: int = 1) -> GivenModel:
    """What was typed; ``copies`` if it does not say how many.

    Raises:
        typer.BadParameter: there is no such file or directory.
    """
    name, path, number = "", text, None
    if not Path(path).exists() and (found := _GIVEN.fullmatch(text)) is not None:
        name, path, number = found[1] or "", found[2], found[3]
    if not path or not Path(path).exists():
        raise typer.BadParameter(
            f"there is no model {path!r}: give the path of a .onnx or .pt2 file, or of a directory of one",
            param_hint="MODELS",
        )
    absolute = os.path.abspath(path)  # noqa: PTH100 - as the user sees it: links are kept
    return GivenModel(Path(absolute), name or model_name_from_path(absolute), copies if number is None else int(number))


def common_root(models: Sequence[GivenModel]) -> Path:
    """The innermost directory that contains all models, and the files that links among them lead to."""
    homes = [str(parent) for model in models for parent in (model.path.parent, model.path.resolve().parent)]
    return Path(os.path.commonpath(homes))


def load_specs(models: Sequence[GivenModel], root: Path) -> tuple[LoadSpec, ...]:
    """The models as a controller loads them from workers whose model root is ``root``.

    Raises:
        typer.BadParameter: a model lies elsewhere, two would have one name, or the copies are too many.
    """
    outside = [str(model.path) for model in models if not model.path.is_relative_to(root)]
    if outside:
        raise typer.BadParameter(
            f"{', '.join(outside)} does not lie under the model root {root}: leave it out", param_hint="--model-root"
        )
    return check_names([LoadSpec(it.path.relative_to(root).as_posix(), it.name, it.copies) for it in models])


def check_names(specs: Sequence[LoadSpec]) -> tuple[LoadSpec, ...]:
    """The specs, if they can be loaded together.

    Raises:
        typer.BadParameter: two models would have one name, or the copies are too many.
    """
    most = ControllerConfig().max_copies
    if any(not 1 <= spec.no_of_copies <= most for spec in specs):
        raise typer.BadParameter(f"a model has 1 to {most} copies", param_hint="MODELS")
    names = Counter(name for spec in specs for name in model_names(spec.name, spec.no_of_copies))
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise typer.BadParameter(
            f"several models would be called {', '.join(twice[:5])}: write NAME=PATH", param_hint="MODELS"
        )
    return tuple(specs)
