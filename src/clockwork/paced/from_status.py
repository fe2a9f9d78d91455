"""Models whose times are those of a live system, from what ``clockwork status --json`` prints of it.

Durations are those measured in service, where there is enough of them, else the profile's; where a model was measured
on several kinds of devices, the first kind is taken.
"""

from math import prod
from typing import Any, Final

from clockwork.errors import InvalidRequestError
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.paced.models import MAX_BATCH, PacedModel

DAMAGED: Final = (AttributeError, KeyError, TypeError, ValueError, IndexError, StopIteration)
"""What reading a state in another form than ours raises."""

PAGE = 16 << 20

DIM_MOST: Final = 1 << 28
"""Elements of one row of a tensor: a gigabyte of them."""


def models_of(state: dict[str, Any]) -> list[tuple[PacedModel, int]]:
    """The models of a live system.

    Raises:
        InvalidRequestError: the state has none that were measured, or is not in the form of ``status --json``.
    """
    try:
        made = [(_model(model), 1) for model in state["models"] if model["profiles"]]
    except DAMAGED as error:
        raise InvalidRequestError(f"the state is not what clockwork status --json prints: {error!r}") from None
    if not made:
        raise InvalidRequestError("the state has no model whose times are known: ask the server when it is serving")
    return made


def _model(model: dict[str, Any]) -> PacedModel:
    info, profiles = model["info"], model["profiles"]
    kind = sorted(profiles)[0]
    profile = model.get("recent", profiles).get(kind, profiles[kind])
    infer = {whole(int(size)): _measurement(times) for size, times in profile["infer"].items()}
    if 1 not in infer:
        raise ValueError(f"{info['name']} has no time for one row")
    made = ModelProfile(_measurement(profile["load_weights"]), dict(sorted(infer.items())), MAX_BATCH)
    inputs, outputs = (tuple(map(_tensor, info[ports])) for ports in ("inputs", "outputs"))
    if not inputs or not outputs:
        raise ValueError(f"{info['name']} has no inputs, or no outputs")
    if not isinstance(info["batchable"], bool):
        raise TypeError(f"batchable of {info['name']} is {info['batchable']!r}")
    pages = whole(info["weights_pages"])
    return PacedModel(
        f"{_text(info['name'])}.onnx", _text(info["digest"]), made, pages * PAGE, inputs, outputs, info["batchable"]
    )


def _tensor(tensor: dict[str, Any]) -> TensorInfo:
    name, shape = _text(tensor["name"], "a tensor's name"), tensor["shape"]
    datatype = Datatype(tensor["datatype"])
    if not isinstance(shape, list) or not all(dim == -1 or (_is_int(dim) and 0 <= dim <= DIM_MOST) for dim in shape):
        raise ValueError(f"{shape!r} is no shape of {name}")
    if prod(dim for dim in shape if dim > 0) > DIM_MOST:
        raise ValueError(f"a row of {name} of shape {shape} is larger than anything that can be sent")
    return TensorInfo(name, datatype, tuple(shape))


def _measurement(times: dict[str, Any]) -> Measurement:
    samples = tuple(whole(sample) for sample in times["samples"])
    if not samples:
        raise ValueError("a measurement without samples")
    return Measurement(samples)


def whole(value: Any) -> int:
    """A number of things, or of nanoseconds: at least 1, and within reason."""
    if not _is_int(value) or not 1 <= value <= 1 << 50:
        raise ValueError(f"{value!r} is no number from 1 on")
    return int(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any, what: str = "a name") -> str:
    if not isinstance(value, str) or not value or (what == "a name" and "/" in value):
        raise ValueError(f"{value!r} is not {what}")
    return value
