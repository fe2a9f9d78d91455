"""Checks the names of models, and derives a model's default name from its path."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from clockwork.controller.config import LoadSpec
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import model_names
from clockwork.state import ModelState

MAX_PATH: Final = 4096
"""Largest number of characters of a path. Linux has the same limit."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")

LABEL_RULE: Final = "it must have 1 to 64 letters, digits, '.', '_' or '-' and begin with a letter"
"""The end of an error message about a label."""

MAX_LABELS: Final = 16
"""Limit of the labels of one model."""


def load_spec(path: str, name: str, no_of_copies: int, max_copies: int) -> LoadSpec:
    """Return a checked `LoadSpec`. If ``name`` is empty, the name is derived from the path.

    Raises:
        InvalidRequestError: the name is not allowed, the path is empty or too long, or the number of copies is not from
            1 to ``max_copies``.
    """
    if name:
        check_model_name(name)
    elif not path:
        raise InvalidRequestError("the load has neither a model name nor a path: send one")
    if not path or len(path) > MAX_PATH or "\0" in path:
        raise InvalidRequestError(
            f"invalid model path {path[:80]!r}: it must have 1 to {MAX_PATH} characters and no NUL"
        )
    if not 1 <= no_of_copies <= max_copies:
        raise InvalidRequestError(f"no_of_copies is {no_of_copies}; it must be 1 to {max_copies}")
    name = name or model_name_from_path(path)
    check_model_name(name)
    return LoadSpec(path, name, no_of_copies)


def check_model_name(name: str) -> None:
    """Raise InvalidRequestError if a text cannot be the name of a model."""
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"invalid model name {name[:80]!r}: it must have 1 to 200 letters, digits, '.', '_' or '-' "
            "and begin with a letter or digit; choose a name other than the file's"
        )


def keyed_specs(specs: Sequence[LoadSpec], max_copies: int) -> list[LoadSpec]:
    """Return the specs with their names and keys filled in. The key of a model's second version is ``NAME/VERSION``.

    Raises:
        InvalidRequestError: a load has a wrong name, path or number of copies, or a version is repeated.
    """
    keyed: list[LoadSpec] = []
    versions: set[tuple[str, str]] = set()
    keys = {spec.key for spec in specs if spec.key}
    for spec in specs:
        found = load_spec(spec.path, spec.name, spec.no_of_copies, max_copies)
        if (found.name, spec.version) in versions:
            version = f"version {spec.version} of " if spec.version else ""
            raise InvalidRequestError(f"{version}model {found.name} is given twice; remove one")
        versions.add((found.name, spec.version))
        key = spec.key or (found.name if found.name not in keys else f"{found.name}/{spec.version or 'new'}")
        keys.add(key)
        keyed.append(LoadSpec(found.path, found.name, found.no_of_copies, spec.version, key))
    return keyed


def is_label(text: str) -> bool:
    """Return whether a text can be a label of a version. A number cannot be a label."""
    return _LABEL.fullmatch(text) is not None


def check_label(label: str) -> None:
    """Raise InvalidRequestError if a text cannot be a label."""
    if not is_label(label):
        raise InvalidRequestError(f"invalid label {label[:80]!r}: {LABEL_RULE}")


def model_name_from_path(path: str) -> str:
    """Return the default name of a model with this path.

    The default name is ``resnet50`` for ``resnet50.onnx``, ``zoo/resnet50``, ``resnet50/1`` and
    ``resnet50/1/model.onnx``.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(parts) > 1 and parts[-1].startswith("model."):
        parts.pop()
    if len(parts) > 1 and parts[-1].isdigit():
        parts.pop()
    last = parts[-1] if parts else ""
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and stem and suffix in ("onnx", "pt2", "pt") else last


def spec_names(spec: LoadSpec) -> set[str]:
    """Return the names of the models that a load creates."""
    return set(model_names(spec.name, spec.no_of_copies))


def is_copy(name: str, models: Iterable[ModelState]) -> bool:
    """Return whether the name belongs to several copies of a model, and at least one of these copies is served."""
    loads = {(model.info.load, model.info.copies) for model in models}
    return any(name in model_names(*load) for load in loads if load[1] > 1)
