"""Elements in the fields of ``InferTensorContents``, as payloads.

Rules of the file: no clock and no I/O. Numbers that their datatype cannot hold are refused, never wrapped around. The
protocol has no field for 16-bit floats; here ``fp32_contents`` may carry them, and each is rounded to the nearest.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from clockwork.arrays import Array, dtype_of, to_payload
from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import Datatype

_FIELDS: Final[Mapping[str, str]] = {
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP16: "fp32_contents",
    Datatype.BF16: "fp32_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
"""Open Inference Protocol v2, message InferTensorContents."""


def payload_of(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Any:
    """The payload of a tensor whose elements are in ``contents``.

    Raises:
        InvalidRequestError: an unknown datatype, another number of elements than the shape's, an element too large.
    """
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidRequestError(
            f"tensor {name!r} has the unknown datatype {datatype!r}; known: {', '.join(Datatype)}"
        )
    elements = getattr(contents, field)
    if len(elements) != prod(shape):
        raise InvalidRequestError(
            f"tensor {name!r}: {datatype}{list(shape)} takes {prod(shape)} elements in {field}, found {len(elements)}"
        )
    try:
        with np.errstate(over="raise"):
            return to_payload(_array(datatype, elements))[2] if datatype != Datatype.BF16 else _bfloat16(elements)
    except (OverflowError, FloatingPointError):
        raise InvalidRequestError(f"tensor {name!r} has an element that no {datatype} can hold") from None


def _array(datatype: str, elements: Any) -> Array:
    if datatype == Datatype.BYTES:
        array = np.empty(len(elements), object)
        array[:] = list(elements)
        return array
    if datatype == Datatype.FP16:
        return np.array(elements, np.float32).astype(dtype_of(datatype))
    return np.array(list(elements), dtype_of(datatype))


def _bfloat16(elements: Any) -> bytes:
    """The upper halves of 32-bit floats, rounded to nearest, ties to even."""
    floats = np.array(elements, "<f4")
    bits = floats.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded[np.isnan(floats)] = 0x7FC0
    return rounded.astype("<u2").tobytes()
