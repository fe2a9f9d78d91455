"""Converts the elements in the fields of ``InferTensorContents`` into payloads.

No clock and no I/O. A number that does not fit its datatype is refused, never wrapped around. The protocol has no field
for 16-bit floats; Clockwork accepts them in ``fp32_contents`` and rounds each to the nearest 16-bit value. Elements are
converted in slices, because each becomes a Python object on the way.
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
"""The field of each datatype (Open Inference Protocol v2, message InferTensorContents)."""

SLICE: Final = 8192
"""Number of elements converted in one step."""


def add_contents(name: str, datatype: str, shape: tuple[int, ...], contents: Any, payload: bytearray) -> Steps[None]:
    """Append to ``payload`` the bytes of a tensor whose elements are in ``contents``.

    Raises:
        InvalidRequestError: the datatype is unknown, the number of elements is not the shape's, or one is too large.
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
    """Return the upper halves of 32-bit floats, rounded to nearest, ties to even."""
    floats = np.array(elements, "<f4")
    bits = floats.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded[np.isnan(floats)] = 0x7FC0
    return rounded.astype("<u2").tobytes()
