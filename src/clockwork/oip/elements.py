"""The elements of tensors as JSON values, and as bytes.

Rules of the file: a value of another kind, or out of its datatype's range, is refused; nothing is rounded but what IEEE
754 rounds. FP16 and BF16 have no JSON form (Open Inference Protocol v2, "Tensor Data Types"). NaN and the infinities
have none either, and become null.
"""

from itertools import chain
from math import prod
from struct import Struct, error, pack, unpack_from
from typing import Any, Final

import msgspec

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import Datatype, TensorSpec

_FORMATS: Final = {
    Datatype.BOOL: ("?", list[bool]),
    Datatype.UINT8: ("B", list[int]),
    Datatype.UINT16: ("H", list[int]),
    Datatype.UINT32: ("I", list[int]),
    Datatype.UINT64: ("Q", list[int]),
    Datatype.INT8: ("b", list[int]),
    Datatype.INT16: ("h", list[int]),
    Datatype.INT32: ("i", list[int]),
    Datatype.INT64: ("q", list[int]),
    Datatype.FP32: ("f", list[float]),
    Datatype.FP64: ("d", list[float]),
    Datatype.BYTES: ("", list[str]),
}
"""How `struct` writes an element, and what it is in JSON."""

_NUMBERS: Final[dict[str, str]] = {str(it): code for it, (code, _) in _FORMATS.items() if code} | {
    str(Datatype.FP16): "e"
}
_LENGTH: Final = Struct("<I")
_NO_JSON: Final = "has no form in JSON"


def to_bytes(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> bytes:
    """The bytes of a tensor whose elements came as JSON: flat in row-major order, or nested as its shape.

    Raises:
        InvalidRequestError: they are no list, too many or too few, or not of the datatype.
    """
    known = _FORMATS.get(datatype)  # type: ignore[call-overload]
    if known is None:
        what = f"{datatype} {_NO_JSON}: send it binary" if datatype in list(Datatype) else f"unknown: {datatype[:40]!r}"
        raise InvalidRequestError(f"input {name!r}: the datatype {what}")
    code, kind = known
    flat = _flat(name, shape, data)
    try:
        values = msgspec.convert(flat, kind)
        if datatype == Datatype.BYTES:
            return b"".join(chain.from_iterable(_with_length(value) for value in values))
        return pack(f"<{len(values)}{code}", *values)
    except (msgspec.ValidationError, error, OverflowError, UnicodeEncodeError) as problem:
        raise InvalidRequestError(f"input {name!r}: an element is no {datatype}: {problem}") from None


def to_json(spec: TensorSpec, data: memoryview) -> list[Any]:
    """The elements, flat, as what JSON has.

    Raises:
        InvalidRequestError: the datatype has no form in JSON, or a BYTES element is no UTF-8.
    """
    if spec.datatype == Datatype.BYTES:
        try:
            return [str(element, "utf-8") for element in elements(data)]
        except UnicodeDecodeError:
            raise InvalidRequestError(f"output {spec.name!r} is not all UTF-8: ask for binary_data") from None
    if spec.datatype not in _FORMATS:
        raise InvalidRequestError(f"output {spec.name!r}: {spec.datatype} {_NO_JSON}: ask for binary_data")
    return list(numbers(spec, data))


def numbers(spec: TensorSpec, data: memoryview) -> tuple[Any, ...]:
    """The elements of a tensor of numbers.

    Raises:
        InvalidRequestError: it is none, or BF16.
    """
    code = _NUMBERS.get(spec.datatype)
    if code is None:
        raise InvalidRequestError(f"output {spec.name!r} is {spec.datatype}; numbers are needed, and not BF16")
    return unpack_from(f"<{prod(spec.shape)}{code}", data)


def elements(data: memoryview) -> list[memoryview]:
    """The elements of a BYTES tensor."""
    found = []
    at = 0
    while at < len(data):
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(data, at)[0]
        found.append(data[begin:at])
    return found


def classified(spec: TensorSpec, data: memoryview, count: int, batched: bool) -> tuple[TensorSpec, bytes]:
    """Triton's classification extension: the ``count`` largest of each row, as BYTES ``value:index``.

    Raises:
        InvalidRequestError: the tensor is not of numbers, or ``count`` is none.
    """
    if count < 1:
        raise InvalidRequestError(f"classification is {count}; it must be at least 1")
    values = numbers(spec, data)
    rows = spec.shape[0] if batched and spec.shape else 1
    width = len(values) // rows if rows else 0
    parts: list[bytes] = []
    for row in range(rows):
        part = values[row * width : (row + 1) * width]
        best = sorted(range(width), key=lambda at, part=part: _rank(part[at]))[:count]  # type: ignore[misc]
        for at in best:
            parts += _with_length(f"{part[at]:f}:{at}" if isinstance(part[at], float) else f"{int(part[at])}:{at}")
    shape = (min(count, width),)
    made = b"".join(parts)
    return TensorSpec(spec.name, Datatype.BYTES.value, (rows, *shape) if batched else shape, len(made)), made


def _rank(value: Any) -> tuple[bool, Any]:
    """Largest first, what is no number last."""
    return value != value, -value


def _with_length(text: str) -> tuple[bytes, bytes]:
    content = text.encode()
    return _LENGTH.pack(len(content)), content


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    level = [data]
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    for want in shape if nested else (prod(shape),):
        if not all(isinstance(row, list) and len(row) == want for row in level):
            raise InvalidRequestError(f"input {name!r}: the data does not have the shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level
