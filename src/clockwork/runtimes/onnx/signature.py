"""Converts the inputs and outputs of a session to a `clockwork.runtimes.signature.Signature`."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final

from msgspec.structs import replace

from clockwork.errors import InvalidModelError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, Datatype, TensorInfo
from clockwork.runtimes.signature import FREE, Port, Signature

_DATATYPES: Final[dict[str, Datatype]] = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}


MAX_OPTIONAL: Final = 32
"""Limit of the optional inputs.

If a model has more optional inputs, its exporter has declared weights as inputs. Clockwork treats such a model as if it
had no optional inputs.
"""

MAX_OPTIONAL_ELEMENTS: Final = 1 << 14
"""Limit of the elements of an optional input. Initializers with more elements are treated as weights."""


def signature(inputs: Sequence[Any], outputs: Sequence[Any], overridable: Sequence[Any] = ()) -> Signature:
    """Return the signature of a session.

    The arguments are the session's ``get_inputs()``, ``get_outputs()`` and ``get_overridable_initializers()``: graph
    inputs that have an initializer as their default.

    Raises:
        InvalidModelError: there are too many inputs or outputs, or one has an unsupported type.
    """
    for ports, word in ((inputs, "inputs"), (outputs, "outputs")):
        if len(ports) > MAX_TENSORS:
            raise InvalidModelError(f"the model has {len(ports)} {word}; at most {MAX_TENSORS} are supported")
    required = tuple(_port(node, "input") for node in inputs)
    return Signature(required, tuple(_port(node, "output") for node in outputs), _optional(overridable))


def _optional(overridable: Sequence[Any]) -> tuple[Port, ...]:
    """Return the optional inputs.

    An optional input of a type that Clockwork does not support is left out, and always has its default value.
    """
    small = [node for node in overridable if node.type in _DATATYPES and len(node.shape) <= MAX_RANK]
    ports = [_port(node, "input") for node in small]
    ports = [port for port in ports if prod(max(1, dim) for dim in port.info.shape) <= MAX_OPTIONAL_ELEMENTS]
    if len(ports) > MAX_OPTIONAL:
        return ()
    return tuple(Port(replace(port.info, optional=True), port.symbols) for port in ports)


def _port(node: Any, word: str) -> Port:
    datatype = _DATATYPES.get(node.type)
    if datatype is None and "map(" in node.type:
        raise InvalidModelError(
            f"the model's {word} {node.name!r} is of type {node.type}, a dictionary for each row; convert the model "
            "without one: with skl2onnx and onnxmltools, options={'zipmap': False}"
        )
    if datatype is None:
        raise InvalidModelError(
            f"the model's {word} {node.name!r} is of type {node.type}; supported are tensors of {', '.join(Datatype)}: "
            f"export the model with such an {word}"
        )
    dims = tuple(node.shape)
    if len(dims) > MAX_RANK:
        raise InvalidModelError(
            f"the model's {word} {node.name!r} has {len(dims)} dimensions; at most {MAX_RANK} are supported"
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else FREE for dim in dims)
    symbols = tuple(dim if isinstance(dim, str) else "" for dim in dims)
    return Port(TensorInfo(node.name, datatype.value, shape), symbols)
