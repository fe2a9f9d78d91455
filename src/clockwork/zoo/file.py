"""`build`: one model of the zoo, as a file.

Rules of the file: the same name, seed and `FORMAT` give the same bytes. A file is written whole or not at all, and one
that is up to date is left as it is: its last bytes say what it is, so that they tell without reading the rest.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from clockwork.errors import InvalidRequestError
from clockwork.units import Bytes
from clockwork.zoo import classics, mlp

FORMAT: Final = 1
"""Counts up when the same name and seed give another model."""

IR_VERSION: Final = 8
"""Of the ONNX format. From 4 on, weights need not be listed among the graph's inputs."""

SEED_MAX: Final = (1 << 63) - 1
"""The largest seed."""


def names() -> tuple[str, ...]:
    """What can be built: ``mlp``, then the classics."""
    return ("mlp", *classics.names())


def build(name: str, directory: Path, seed: int = 0) -> Path:
    """Build a model into ``directory/NAME.onnx``, unless that file is this model already; returns the file.

    Raises:
        InvalidRequestError: no such model, no such seed, or the directory cannot be written.
    """
    if name not in names():
        raise InvalidRequestError(f"the zoo has no model {name!r}; it has {', '.join(names())}")
    if not 0 <= seed <= SEED_MAX:
        raise InvalidRequestError(f"seed {seed} is not between 0 and {SEED_MAX}")
    file = directory / f"{name}.onnx"
    stamp = _stamp(name, seed)
    if _ends_with(file, stamp):
        return file
    chance = np.random.default_rng(seed)
    model = mlp.model(chance) if name == "mlp" else classics.model(name, chance)
    model.ir_version = IR_VERSION
    model.producer_name = "clockwork zoo"
    try:
        _write(file, model.SerializeToString(deterministic=True), stamp)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {file}: {error.strerror}; name a directory that can be") from error
    return file


def _stamp(name: str, seed: int) -> bytes:
    """A serialised model with nothing but metadata. Appended to another, it adds to it (Protocol Buffers, merging)."""
    model: Any = onnx.ModelProto()
    for key, value in (("format", str(FORMAT)), ("name", name), ("seed", str(seed))):
        model.metadata_props.add(key=f"clockwork.zoo.{key}", value=value)
    stamp: bytes = model.SerializeToString(deterministic=True)
    return stamp


def _ends_with(file: Path, stamp: bytes) -> bool:
    try:
        with file.open("rb") as content:
            content.seek(-len(stamp), os.SEEK_END)
            return content.read() == stamp
    except OSError:  # also where the file is shorter
        return False


def _write(file: Path, *parts: bytes) -> Bytes:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as target:
            written = sum(target.write(part) for part in parts)
        Path(temporary).chmod(0o644)  # mkstemp makes files that nobody else can read
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return written
