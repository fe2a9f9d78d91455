"""What a graph takes and gives, in the vocabulary's words.

Rules of the file: a dimension without a number is -1, whatever it is called; its name is kept beside, because two
dimensions of one name are one size.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, Datatype, TensorInfo

FREE: Final = -1
"""A dimension of any size."""

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


class Port(Struct, frozen=True):
    """An input or output, with the names of its dimensions (empty where a dimension has a number or no name)."""

    info: TensorInfo
    symbols: tuple[str, ...]


class Signature(Struct, frozen=True):
    """All inputs and outputs of a graph, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def may_batch(self) -> bool:
        """Whether the declaration allows to put the rows of several requests into one.

        Every input and output has a free first dimension. The inputs' are not named differently: such rows are counted
        apart (nodes and edges of a graph, say). And that name is not the name of another dimension, which would grow
        with the batch.
        """
        ports = self.inputs + self.outputs
        if not self.inputs or not all(port.info.shape and port.info.shape[0] == FREE for port in ports):
            return False
        names = {port.symbols[0] for port in self.inputs} - {""}
        return len(names) <= 1 and not any(names.intersection(port.symbols[1:]) for port in ports)


def signature(inputs: Sequence[Any], outputs: Sequence[Any]) -> Signature:
    """The signature of a session: of its ``get_inputs()`` and ``get_outputs()``.

    Raises:
        InvalidModelError: too many of them, or one that is no tensor or of an unsupported type.
    """
    for ports, word in ((inputs, "inputs"), (outputs, "outputs")):
        if len(ports) > MAX_TENSORS:
            raise InvalidModelError(f"the model has {len(ports)} {word}; at most {MAX_TENSORS} are supported")
    return Signature(tuple(_port(node, "input") for node in inputs), tuple(_port(node, "output") for node in outputs))


def _port(node: Any, word: str) -> Port:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise InvalidModelError(
            f"the model's {word} {node.name!r} is of type {node.type}; only tensors of {', '.join(Datatype)} are "
            "supported: export the model with such an input or output"
        )
    dims = tuple(node.shape)
    if len(dims) > MAX_RANK:
        raise InvalidModelError(
            f"the model's {word} {node.name!r} has {len(dims)} dimensions; at most {MAX_RANK} are supported"
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else FREE for dim in dims)
    symbols = tuple(dim if isinstance(dim, str) else "" for dim in dims)
    return Port(TensorInfo(node.name, datatype.value, shape), symbols)
