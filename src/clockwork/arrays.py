"""Converts numpy arrays to payloads, and payloads to numpy arrays.

An array is not copied if it already has the format of a payload, which is little-endian and row-major. An array that is
created from a payload is a read-only view of the payload. ``BYTES`` elements are always copied, because in an array
they are Python objects. In arrays that are created from payloads, these objects are of type ``bytes``. In a user's
array, they may be ``bytes`` or ``str``; a ``str`` is sent as UTF-8.
"""

from functools import cache
from importlib import import_module
from math import prod
from struct import Struct
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import ELEMENT_BYTES, Datatype, TensorSpec

Array: TypeAlias = NDArray[Any]
"""The type of an array of any supported dtype."""

Buffer: TypeAlias = Any
"""The type of an object that supports the buffer protocol. The buffer must have one dimension and elements of one byte.
"""

_LENGTH: Final = Struct("<I")

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    Datatype.BOOL: np.dtype("?"),
    Datatype.UINT8: np.dtype("u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype("O"),
}
_DATATYPES: Final[dict[np.dtype[Any], str]] = {dtype: str(datatype) for datatype, dtype in _DTYPES.items()}


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Return the numpy dtype of a datatype. The package ml_dtypes provides the dtype of ``BF16``.

    Raises:
        InvalidRequestError: the datatype is unknown, or ml_dtypes is not installed.
    """
    found = _DTYPES.get(datatype)
    if found is not None:
        return found
    if datatype == Datatype.BF16:
        bfloat16 = _bfloat16()
        if bfloat16 is None:
            raise InvalidRequestError("BF16 arrays need the package ml_dtypes; install it")
        return bfloat16
    raise InvalidRequestError(f"datatype {datatype!r} is unknown; known: {', '.join(Datatype)}")


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the datatype of a numpy dtype. The dtype may have any byte order. Strings of any kind are ``BYTES``.

    Raises:
        InvalidRequestError: no datatype corresponds to the dtype.
    """
    if dtype.kind in "SUT":
        return Datatype.BYTES.value
    found = _DATATYPES.get(dtype.newbyteorder("<"))
    if found is not None:
        return found
    if dtype == _bfloat16():
        return Datatype.BF16.value
    raise InvalidRequestError(
        f"arrays of dtype {dtype} cannot be sent; convert them to one of "
        f"{', '.join(str(known) for known in _DATATYPES if known.kind != 'O')}, bfloat16, "
        "or an object array of bytes or str"
    )


def to_payload(array: ArrayLike) -> tuple[str, tuple[int, ...], Buffer]:
    """Return the datatype, the shape and the payload of an array. The payload shares the array's memory if possible.

    Raises:
        InvalidRequestError: the dtype is not supported, or the array contains objects other than strings.
    """
    source = np.asarray(array)
    datatype = datatype_of(source.dtype)
    if datatype == Datatype.BYTES:
        return datatype, source.shape, _encode_bytes(source)
    return datatype, source.shape, raw_bytes(np.asarray(source, dtype=dtype_of(datatype), order="C"))


def from_payload(spec: TensorSpec, buffer: Buffer, offset: int = 0) -> Array:
    """Return the array whose bytes begin at ``offset`` of a payload.

    The array is a read-only view of the payload, unless its elements are ``BYTES``.

    Raises:
        InvalidRequestError: the payload is too short or does not fit the spec, or the datatype is unknown.
    """
    dtype = _DTYPES.get(spec.datatype) or dtype_of(spec.datatype)
    if spec.datatype == "BYTES":
        return _decode_bytes(spec, memoryview(buffer).cast("B")[offset : offset + spec.nbytes])
    if spec.nbytes != ELEMENT_BYTES[spec.datatype] * prod(spec.shape):
        raise InvalidRequestError(
            f"tensor {spec.describe()} takes {ELEMENT_BYTES[spec.datatype] * prod(spec.shape)} bytes, "
            f"but its size is given as {spec.nbytes}"
        )
    if not spec.nbytes:
        return np.empty(spec.shape, dtype)
    try:
        array: Array = np.ndarray(spec.shape, dtype, buffer, offset)
    except (TypeError, ValueError):
        raise InvalidRequestError(
            f"tensor {spec.describe()} needs {spec.nbytes} bytes at {offset}; "
            f"the payload has {memoryview(buffer).nbytes}"
        ) from None
    array.flags.writeable = False
    if spec.datatype == "BOOL" and array.view(np.uint8).max() > 1:
        # For booleans with bytes other than 0 and 1, the behaviour of kernels is undefined.
        raise InvalidRequestError(f"tensor {spec.describe()} has bytes other than 0 and 1")
    return array


def raw_bytes(array: Array) -> Buffer:
    """Return the memory of a C-contiguous array as bytes. The elements of the array must have a fixed size."""
    if not array.size:
        return b""  # Python cannot cast a view whose shape contains a zero
    if array.dtype.isbuiltin != 1:
        array = array.view(np.uint16)  # the buffer protocol has no format for bfloat16
    return array.data.cast("B")


@cache
def _bfloat16() -> np.dtype[Any] | None:
    try:
        bfloat16: np.dtype[Any] = np.dtype(import_module("ml_dtypes").bfloat16)
    except ImportError:
        return None
    return bfloat16


def _encode_bytes(array: Array) -> bytes:
    """Return the encoded elements. Each element is preceded by its length."""
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        content = _utf8(element) if isinstance(element, str) else element
        if not isinstance(content, bytes):
            raise InvalidRequestError(
                f"object arrays may contain bytes and str only; found {type(element).__name__}: convert it"
            )
        parts.append(_LENGTH.pack(len(content)))
        parts.append(content)
    return b"".join(parts)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(f"string {text[:40]!r} has lone surrogates, which UTF-8 cannot encode") from None


def _decode_bytes(spec: TensorSpec, view: memoryview) -> Array:
    """Return an array of the decoded elements."""
    count = prod(spec.shape)
    if count * _LENGTH.size > len(view):
        raise InvalidRequestError(
            f"tensor {spec.describe()} cannot fit in {len(view)} bytes: each element takes at least {_LENGTH.size}"
        )
    array = np.empty(count, object)
    at = 0
    for i in range(count):
        start = at + _LENGTH.size
        length = _LENGTH.unpack_from(view, at)[0] if start <= len(view) else 0
        at = start + length
        if at > len(view):
            raise InvalidRequestError(
                f"element {i} of tensor {spec.describe()} ends at byte {at}, but the tensor has {len(view)}"
            )
        array[i] = bytes(view[start:at])
    if at != spec.nbytes or len(view) != spec.nbytes:
        raise InvalidRequestError(
            f"the {count} elements of tensor {spec.describe()} take {at} bytes, but its size is given as {spec.nbytes} "
            f"and the payload has {len(view)}"
        )
    return array.reshape(spec.shape)


FLOAT_TOLERANCE: Final = 0.01
"""Largest accepted difference between two computations of the same output, as a share of the largest element.

Kernels for different batch sizes add numbers in a different order, which changes the last bits of the result. In most
deep networks in FP32, the difference is less than 1e-5. For unusual inputs, such as random bytes for the model magika,
the difference is up to 0.004, even in a batch of identical rows.
"""

FLOAT_BITS: Final = 8
"""Largest accepted difference for float types with few bits, such as ``BF16``.

The unit is the distance between 1 and the next larger number of the float type.
"""


def difference(wanted: Array, found: Array) -> str:
    """Return a description of the difference between an output and the expected output.

    The description is empty if both agree. Integers, booleans and strings agree if they are equal. Floats agree if
    infinities and NaNs are in the same places, and if no element differs by more than `FLOAT_TOLERANCE` of the largest
    expected element. For float types with few bits, the limit is `FLOAT_BITS`.
    """
    if wanted.shape != found.shape:
        return f"the shape is {list(found.shape)} instead of {list(wanted.shape)}"
    if not is_float(wanted):
        wrong = int(np.count_nonzero(wanted != found))
        return f"{wrong} of {wanted.size} elements differ" if wrong else ""
    tolerance = max(FLOAT_TOLERANCE, FLOAT_BITS * _distance_at_one(wanted.dtype))
    expected, got = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], got[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return "infinities or NaNs are in different places"
    if not finite.any():
        return ""
    most = float(np.abs(got[finite] - expected[finite]).max())
    largest = float(np.abs(expected[finite]).max())
    return (
        f"the largest difference is {most:.3g}, of elements up to {largest:.3g}" if most > tolerance * largest else ""
    )


def is_float(array: Array) -> bool:
    """Return whether the elements are floats. The type bfloat16 counts as a float."""
    return array.dtype.kind == "f" or array.dtype.isbuiltin != 1


def _distance_at_one(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7  # bfloat16 has 8 significant bits
