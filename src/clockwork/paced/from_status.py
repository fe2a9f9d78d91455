"""Builds paced models from the output of ``clockwork status --json``, with the measured times of a live system.

If enough durations were measured while serving, these durations are used. Otherwise, the profile's durations are used.
If a model was measured on several kinds of devices, the first kind in alphabetical order is used.
"""

from math import prod
from typing import Any, Final

from clockwork.errors import InvalidRequestError
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.paced.models import MAX_BATCH, PacedModel

DAMAGED: Final = (AttributeError, KeyError, TypeError, ValueError, IndexError, StopIteration)
"""Exceptions that occur if the state has an unexpected form."""

PAGE = 16 << 20

MAX_DIM: Final = 1 << 28
"""Largest size of a dimension, and largest number of elements in one row of a tensor. So a row of FP32 has at most 1
GiB.
"""


def models_of(state: dict[str, Any]) -> list[tuple[PacedModel, int]]:
    """Return the models of a live system, each with its number of copies.

    Raises:
        InvalidRequestError: no model in the state was measured, or the state is not the output of ``status --json``.
    """
    try:
        models = [(_model(model), 1) for model in state["models"] if model["profiles"]]
    except DAMAGED as error:
        raise InvalidRequestError(f"state is not the output of clockwork status --json: {error!r}") from None
    if not models:
        raise InvalidRequestError("state has no model with measured times; query the server while it is serving")
    return models


def _model(model: dict[str, Any]) -> PacedModel:
    info, profiles = model["info"], model["profiles"]
    kind = sorted(profiles)[0]
    profile = model.get("recent", profiles).get(kind, profiles[kind])
    infer = {whole(int(size)): _measurement(times) for size, times in profile["infer"].items()}
    if 1 not in infer:
        raise ValueError(f"{info['name']} has no time for one row")
    measured = ModelProfile(_measurement(profile["load_weights"]), dict(sorted(infer.items())), MAX_BATCH)
    inputs, outputs = (tuple(map(_tensor, info[ports])) for ports in ("inputs", "outputs"))
    if not inputs or not outputs:
        raise ValueError(f"{info['name']} has no inputs, or no outputs")
    if not isinstance(info["batchable"], bool):
        raise TypeError(f"batchable of {info['name']} is {info['batchable']!r}")
    pages = whole(info["weights_pages"])
    return PacedModel(
        f"{_text(info['name'])}.onnx", _text(info["digest"]), measured, pages * PAGE, inputs, outputs, info["batchable"]
    )


def _tensor(tensor: dict[str, Any]) -> TensorInfo:
    name, shape = _text(tensor["name"], "a tensor's name"), tensor["shape"]
    datatype = Datatype(tensor["datatype"])
    if not isinstance(shape, list) or not all(dim == -1 or (_is_int(dim) and 0 <= dim <= MAX_DIM) for dim in shape):
        raise ValueError(f"shape of {name} is {shape!r}")
    if prod(dim for dim in shape if dim > 0) > MAX_DIM:
        raise ValueError(f"tensor {name} of shape {shape} has more than {MAX_DIM} elements in a row")
    return TensorInfo(name, datatype, tuple(shape), tensor.get("optional") is True)


def _measurement(times: dict[str, Any]) -> Measurement:
    samples = tuple(whole(sample) for sample in times["samples"])
    if not samples:
        raise ValueError("measurement has no samples")
    return Measurement(samples)


def whole(value: Any) -> int:
    """Check that a value is a whole number from 1 to 2**50, and return it."""
    if not _is_int(value) or not 1 <= value <= 1 << 50:
        raise ValueError(f"{value!r} is not a number from 1 to 2**50")
    return int(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any, what: str = "a name") -> str:
    if not isinstance(value, str) or not value or (what == "a name" and "/" in value):
        raise ValueError(f"{value!r} is not {what}")
    return value
