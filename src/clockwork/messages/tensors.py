"""Names, types and shapes of tensors, as in the Open Inference Protocol v2, without the elements.

The elements of a message's tensors are its *payload*, which is a sequence of bytes. The controller and the worker's
core pass payloads on as opaque handles. Only runtimes and clients read the elements. In the payload, the tensors have
the order of their specs, and their elements are little-endian and in row-major order. Each ``BYTES`` element is a
4-byte little-endian length, followed by the element's bytes. (This format is defined by the Open Inference Protocol v2,
"Tensor Data Types", and by Triton's binary tensor data extension.)
"""

from enum import StrEnum
from math import prod
from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.units import Bytes

MAX_RANK: Final = 16
"""Largest number of dimensions of a tensor. No known model needs more. The limit bounds the work that a peer can cause.
"""

MAX_TENSORS: Final = 256
"""Largest number of inputs of a request, and of outputs. The limit bounds the work that a peer can cause."""


MAX_NAME: Final = 1000
"""Longest name of a tensor or a model in a request, in characters. Results and errors repeat the name."""


class Datatype(StrEnum):
    """The element types of tensors. Both the Open Inference Protocol v2 and ONNX Runtime have these types."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


ELEMENT_BYTES: Final[dict[str, int]] = {
    Datatype.BOOL: 1,
    Datatype.UINT8: 1,
    Datatype.UINT16: 2,
    Datatype.UINT32: 4,
    Datatype.UINT64: 8,
    Datatype.INT8: 1,
    Datatype.INT16: 2,
    Datatype.INT32: 4,
    Datatype.INT64: 8,
    Datatype.FP16: 2,
    Datatype.BF16: 2,
    Datatype.FP32: 4,
    Datatype.FP64: 8,
}
"""Size of one element in bytes. ``BYTES`` is missing, because its elements have no fixed size."""


class TensorInfo(Struct, frozen=True, array_like=True):
    """A model's description of one input or output.

    ``shape`` includes the batch dimension; -1 is a free dimension. If an input is ``optional``, the model has a default
    for it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def describe(self) -> str:
        """Return a text such as ``data FP32[-1,3,224,224]`` or ``limit FP32[1] (optional)``."""
        optional = " (optional)" if self.optional else ""
        return f"{self.name} {self.datatype}[{','.join(map(str, self.shape))}]{optional}"


class TensorSpec(Struct, frozen=True, array_like=True):
    """A tensor of a request or a response. All dimensions are known. The elements take ``nbytes`` bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    nbytes: Bytes

    def describe(self) -> str:
        """Return the name, type and shape as text, for example ``data FP32[1,3,224,224]``."""
        return f"{self.name} {self.datatype}[{','.join(map(str, self.shape))}]"


def spec(name: str, datatype: str, shape: tuple[int, ...]) -> TensorSpec:
    """Return the spec of a tensor whose elements have a fixed size.

    Raises:
        InvalidRequestError: ``datatype`` is unknown, or is ``BYTES``, whose elements have no fixed size.
    """
    size = ELEMENT_BYTES.get(datatype)
    if size is None:
        raise InvalidRequestError(f"tensor {name!r}: datatype {datatype!r} has no fixed element size")
    return TensorSpec(name, datatype, shape, size * prod(shape))


def unknown_datatype(name: str, datatype: str) -> InvalidRequestError:
    """Return the error for a tensor whose datatype is not a `Datatype`."""
    return InvalidRequestError(
        f"tensor {name!r} has unknown datatype {datatype[:40]!r}; known datatypes: {', '.join(Datatype)}"
    )


def check_name(of: str, name: str) -> None:
    """Check the length of a name that a peer has sent. ``of`` is the kind of the object, for the error message.

    Raises:
        InvalidRequestError: the name is longer than `MAX_NAME`.
    """
    if len(name) > MAX_NAME:
        raise InvalidRequestError(
            f"{of} name {name[:40]!r}... has {len(name)} characters; at most {MAX_NAME} are accepted"
        )


def check_specs(tensors: tuple[TensorSpec, ...], payload_bytes: Bytes) -> None:
    """Check the specs of tensors that a peer has sent. The sum of their sizes must be ``payload_bytes``.

    Raises:
        InvalidRequestError: there are too many tensors, a name is a duplicate or too long, a datatype is unknown, a
            dimension is negative, there are too many dimensions, or a size is wrong.
    """
    if len(tensors) > MAX_TENSORS:
        raise InvalidRequestError(f"request has {len(tensors)} inputs; at most {MAX_TENSORS} are accepted")
    total = 0
    names = set()
    for tensor in tensors:
        _check_spec(tensor)
        if tensor.name in names:
            raise InvalidRequestError(f"tensor {tensor.name!r} was sent twice")
        names.add(tensor.name)
        total += tensor.nbytes
    if total != payload_bytes:
        raise InvalidRequestError(f"the tensors take {total} bytes, but the request has {payload_bytes}")


def _check_spec(tensor: TensorSpec) -> None:
    check_name("tensor", tensor.name)
    if len(tensor.shape) > MAX_RANK:
        raise InvalidRequestError(
            f"tensor {tensor.name!r} has {len(tensor.shape)} dimensions; at most {MAX_RANK} are accepted"
        )
    if any(dim < 0 for dim in tensor.shape):
        raise InvalidRequestError(f"tensor {tensor.describe()} has a negative dimension")
    if tensor.datatype == Datatype.BYTES:
        if tensor.nbytes < 4 * prod(tensor.shape):
            raise InvalidRequestError(
                f"tensor {tensor.describe()} cannot fit in {tensor.nbytes} bytes: each element takes at least 4"
            )
        return
    size = ELEMENT_BYTES.get(tensor.datatype)
    if size is None:
        raise unknown_datatype(tensor.name, tensor.datatype)
    if tensor.nbytes != size * prod(tensor.shape):
        raise InvalidRequestError(
            f"tensor {tensor.describe()} takes {size * prod(tensor.shape)} bytes, "
            f"but its size is given as {tensor.nbytes}"
        )
