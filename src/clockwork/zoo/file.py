"""Builds a model of the zoo as a file.

The same name, seed and `FORMAT` always result in the same bytes. A model file is written completely or not at all. A
file that is up to date is not written again. To check this, only the last bytes of the file are read, because they
contain the file's name, seed and format.
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
"""Version of the networks. The version is increased when a change makes the same name and seed result in a different
model.
"""

IR_VERSION: Final = 8
"""Version of the ONNX format. Since version 4, weights need not be inputs of the graph."""

MAX_SEED: Final = (1 << 63) - 1
"""Largest allowed seed."""


def names() -> tuple[str, ...]:
    """Return the names of all networks. The first name is ``mlp``, and the classic networks follow."""
    return ("mlp", *classics.names())


def build(name: str, directory: Path, seed: int = 0) -> Path:
    """Build a network as ``directory/NAME.onnx``, unless that file is up to date. Return the path.

    Raises:
        InvalidRequestError: the name is unknown, the seed is out of range, or the file cannot be written.
    """
    if name not in names():
        raise InvalidRequestError(f"unknown network {name!r}; expected one of: {', '.join(names())}")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequestError(f"seed is {seed}; it must be 0 to {MAX_SEED}")
    file = directory / f"{name}.onnx"
    stamp = _stamp(name, seed)
    if _ends_with(file, stamp):
        return file
    rng = np.random.default_rng(seed)
    model = mlp.model(rng) if name == "mlp" else classics.model(name, rng)
    model.ir_version = IR_VERSION
    model.producer_name = "clockwork zoo"
    try:
        _write(file, model.SerializeToString(deterministic=True), stamp)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {file}: {error.strerror}") from error
    return file


def _stamp(name: str, seed: int) -> bytes:
    """Return a serialised model that contains only metadata.

    If these bytes are appended to a serialised model, the model gets this metadata, because Protocol Buffers merge
    concatenated messages.
    """
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
    except OSError:  # this error also occurs if the file is shorter than the stamp
        return False


def _write(file: Path, *parts: bytes) -> Bytes:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as target:
            written = sum(target.write(part) for part in parts)
        Path(temporary).chmod(0o644)  # mkstemp creates files that only their owner can read
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return written
