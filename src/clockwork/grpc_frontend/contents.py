"""Converts tensor elements from the message ``InferTensorContents`` into payload bytes.

This module uses no clock and no I/O. A number that is too large for its datatype is an error. The protocol has no field
for 16-bit floats, so clients send them in ``fp32_contents``, and Clockwork rounds each number to the nearest 16-bit
value. The conversion creates a Python object for each element. The conversion is therefore slow, and is done in many
short steps.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from clockwork.arrays import Array, dtype_of, to_payload
from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import Datatype, unknown_datatype
from clockwork.steps import Steps

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
"""The field of ``InferTensorContents`` for each datatype, as the Open Inference Protocol v2 defines it."""

SLICE: Final = 8192
"""Number of elements that are converted in one step."""


def add_contents(name: str, datatype: str, shape: tuple[int, ...], contents: Any, payload: bytearray) -> Steps[None]:
    """Append the bytes of a tensor to ``payload``. The tensor's elements are in ``contents``.

    Raises:
        InvalidRequestError: the datatype is unknown, the number of elements does not fit the shape, or a number is too
            large for the datatype.
    """
    field = _FIELDS.get(datatype)
    if field is None:
        raise unknown_datatype(name, datatype)
    elements = getattr(contents, field)
    if len(elements) != prod(shape):
        raise InvalidRequestError(
            f"tensor {name!r} has {len(elements)} elements in {field}; {datatype}{list(shape)} needs {prod(shape)}"
        )
    for at in range(0, len(elements), SLICE):
        if at:
            yield
        try:
            payload += _bytes_of(datatype, elements[at : at + SLICE])
        except (OverflowError, FloatingPointError):
            raise InvalidRequestError(f"tensor {name!r} has an element that does not fit {datatype}") from None


def _bytes_of(datatype: str, elements: Any) -> Any:
    with np.errstate(over="raise"):
        return _bfloat16(elements) if datatype == Datatype.BF16 else to_payload(_array(datatype, elements))[2]


def _array(datatype: str, elements: Any) -> Array:
    if datatype == Datatype.BYTES:
        array = np.empty(len(elements), object)
        array[:] = list(elements)
        return array
    if datatype == Datatype.FP16:
        return np.array(elements, np.float32).astype(dtype_of(datatype))
    return np.array(list(elements), dtype_of(datatype))


def _bfloat16(elements: Any) -> bytes:
    """Convert 32-bit floats to bfloat16: round to nearest, ties to even, and keep the upper 16 bits."""
    floats = np.array(elements, "<f4")
    bits = floats.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded[np.isnan(floats)] = 0x7FC0
    return rounded.astype("<u2").tobytes()
