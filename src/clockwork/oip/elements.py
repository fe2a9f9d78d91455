"""Converts the elements of tensors between JSON and bytes.

A value is refused if its type is wrong, or if it is outside the range of its datatype. Only floats are rounded, as IEEE
754 defines. FP16 and BF16 have no JSON form (Open Inference Protocol v2, "Tensor Data Types"). NaN and infinities
become null.

Elements are read and written in slices. Each slice is one step of the work, so that the event loop can do other work
between two slices. A slice of text ends at a comma. The brackets of a slice are compared with the brackets that the
shape requires. The numbers of a slice are decoded as one flat list.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from operator import itemgetter
from struct import Struct, error, pack, unpack_from
from typing import Any, Final, NamedTuple

import msgspec

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import ELEMENT_BYTES, Datatype, TensorSpec
from clockwork.steps import Steps
from clockwork.units import KIB, Bytes, show_bytes

SLICE: Final[Bytes] = 64 * KIB
"""Number of bytes of JSON that are decoded in one step. A longer element is an error."""

SLICE_ELEMENTS: Final = 4096
"""Number of elements that are formatted or compared in one step."""

MAX_SHORT: Final[Bytes] = 4 * KIB
"""Longest JSON of an input, in bytes, that is decoded in one step. For short JSON, one step is faster than slices."""

MAX_TEXTS: Final[Bytes] = 256 * KIB
"""Longest JSON of a BYTES input, in bytes. There is a limit because such an input is decoded in one step."""

MAX_CLASSES: Final = 1024
"""Largest number of classes that a client can request if a row has more than `SLICE_ELEMENTS` elements."""

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
"""For each datatype, the format of an element in the module `struct`, and the type of the elements in JSON."""

_DECODERS: Final = {kind: msgspec.json.Decoder(kind).decode for _, kind in _FORMATS.values()}
_NUMBERS: Final[dict[str, str]] = {str(datatype): code for datatype, (code, _) in _FORMATS.items() if code} | {
    str(Datatype.FP16): "e"
}
_LENGTH: Final = Struct("<I")
_NO_JSON: Final = "has no JSON form"
_BLANKS: Final = b" \t\r\n"
_STRUCTURE: Final = bytes(code if code in b"[]," else ord("0") for code in range(256))
"""Table for `bytes.translate`. The table keeps brackets and commas, and replaces all other bytes with ``0``."""

_FLAT: Final = bytes.maketrans(b"[]", b"  ")
_NESTED: Final = re.compile(rb"\s*\[\s*\[")


class Text(NamedTuple):
    """A part of a JSON text: the bytes of ``whole`` from ``begin`` to ``end``."""

    whole: bytes | bytearray
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


def add_elements(name: str, datatype: str, shape: tuple[int, ...], text: Text, payload: bytearray) -> Steps[None]:
    """Convert the elements of a tensor from JSON, and append their bytes to ``payload``.

    ``text`` is a JSON list. The list is a flat list in row-major order, or nested lists with the tensor's shape.
    ``shape`` must have no negative dimension.

    Raises:
        InvalidRequestError: the text is not a list, its shape is wrong, or an element has a wrong type.
    """
    known = _FORMATS.get(datatype)  # type: ignore[call-overload]
    if known is None:
        if datatype in list(Datatype):
            raise InvalidRequestError(
                f"input {name!r} has datatype {datatype}, which {_NO_JSON}; send it as binary data"
            )
        known_types = ", ".join(Datatype)
        raise InvalidRequestError(
            f"input {name!r} has unknown datatype {datatype[:40]!r}; known datatypes: {known_types}"
        )
    code, kind = known
    try:
        if not code:
            _check_texts(name, text)
            payload += b"".join(chain.from_iterable(map(_with_length, _whole(name, shape, text, kind))))
        elif len(text) <= MAX_SHORT:
            values = _whole(name, shape, text, kind)
            payload += pack(f"<{len(values)}{code}", *values)
        else:
            yield from _add_numbers(name, shape, text, payload, code, _DECODERS[kind])
    except (msgspec.MsgspecError, error, OverflowError, UnicodeError, RecursionError) as problem:
        raise InvalidRequestError(f"input {name!r} has an element that is not {datatype}: {problem}") from None


def _add_numbers(
    name: str, shape: tuple[int, ...], text: Text, payload: bytearray, code: str, decode: Any
) -> Steps[None]:
    wanted = prod(shape)
    if 2 * wanted - 1 > len(text):  # each element has at least one character and a comma
        raise _other_shape(name, shape)
    nested = _NESTED.match(text.whole, text.begin, min(text.end, text.begin + SLICE))
    brackets = _brackets(name, shape if nested else (wanted,), len(text))
    at, checked, found = text.begin, 0, 0
    while True:
        end = _cut(name, text, at)
        piece = bytes(text.whole[at:end])
        bare = piece.translate(_STRUCTURE, _BLANKS)
        structure = bare.translate(None, b"0")
        last = end == text.end
        if brackets[checked : checked + len(structure) + 1] != structure + (b"" if last else b","):
            raise _other_shape(name, shape)
        if b"0[" in bare or b"]0" in bare or (not wanted and b"0" in bare):
            raise _other_shape(name, shape)
        if wanted:
            values = decode(b"[%b]" % piece.translate(_FLAT))
            payload += pack(f"<{len(values)}{code}", *values)
            found += len(values)
        if last:
            break
        checked += len(structure) + 1
        at = end + 1
        yield
    if found != wanted:
        raise _other_shape(name, shape)


def _cut(name: str, text: Text, at: int) -> int:
    """Return the end of the slice that begins at ``at``. A slice ends at a comma or at the end of the text."""
    if text.end - at <= SLICE:
        return text.end
    comma = text.whole.rfind(b",", at, at + SLICE)
    if comma < 0:
        raise InvalidRequestError(f"input {name!r} has an element that exceeds the limit of {show_bytes(SLICE)}")
    return comma


def _brackets(name: str, shape: tuple[int, ...], limit: Bytes) -> bytes:
    """Return the brackets and commas of nested lists of this shape.

    Raises:
        InvalidRequestError: the result would be longer than ``limit`` bytes.
    """
    size = 0
    for dim in reversed(shape):
        size = 2 + max(0, dim - 1) + dim * size
        if size > limit:
            raise _other_shape(name, shape)
    brackets = b""
    for dim in reversed(shape):
        brackets = b"[" + ((brackets + b",") * dim)[:-1] + b"]"
    return brackets


def _other_shape(name: str, shape: tuple[int, ...]) -> InvalidRequestError:
    return InvalidRequestError(f"input {name!r} has data that does not have the shape {list(shape)}")


def _check_texts(name: str, text: Text) -> None:
    if len(text) > MAX_TEXTS:
        raise InvalidRequestError(
            f"input {name!r} has {len(text)} bytes of JSON; the limit for BYTES elements is {show_bytes(MAX_TEXTS)}: "
            "send it as binary data"
        )


def _whole(name: str, shape: tuple[int, ...], text: Text, kind: Any) -> list[Any]:
    """Decode all elements in one step."""
    values: list[Any] = msgspec.convert(
        _flat(name, shape, msgspec.json.decode(text.whole[text.begin : text.end])), kind
    )
    return values


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    level = [data]
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    for want in shape if nested else (prod(shape),):
        if not all(isinstance(row, list) and len(row) == want for row in level):
            raise _other_shape(name, shape)
        level = list(chain.from_iterable(level))
    return level


def is_short(spec: TensorSpec) -> bool:
    """Return whether the JSON of a tensor can be one slice."""
    return spec.nbytes <= SLICE and prod(spec.shape) <= SLICE_ELEMENTS


def json_slices(spec: TensorSpec, data: memoryview) -> Iterator[Sequence[Any]]:
    """Yield the elements of a tensor in slices, as values that JSON can represent. A slice is a flat list.

    Raises:
        InvalidRequestError: the datatype has no JSON form, or a BYTES element is not UTF-8.
    """
    if spec.datatype == Datatype.BYTES:
        try:
            for texts in element_slices(data):
                yield [str(text, "utf-8") for text in texts]
        except UnicodeDecodeError:
            raise InvalidRequestError(f"output {spec.name!r} is not UTF-8; request binary_data") from None
    elif spec.datatype not in _FORMATS:
        raise InvalidRequestError(f"output {spec.name!r} is {spec.datatype}, which {_NO_JSON}; request binary_data")
    else:
        yield from number_slices(spec, data, 0, prod(spec.shape))


def number_slices(spec: TensorSpec, data: memoryview, begin: int, end: int) -> Iterator[tuple[Any, ...]]:
    """Yield the elements of a numeric tensor in slices, from element ``begin`` up to element ``end``.

    Raises:
        InvalidRequestError: the datatype is BYTES or BF16.
    """
    code = _number_code(spec)
    size = ELEMENT_BYTES[spec.datatype]
    for at in range(begin, end, SLICE_ELEMENTS):
        yield unpack_from(f"<{min(SLICE_ELEMENTS, end - at)}{code}", data, at * size)


def element_slices(data: memoryview) -> Iterator[list[memoryview]]:
    """Yield the elements of a BYTES tensor in slices.

    A slice ends as soon as it has `SLICE` bytes or `SLICE_ELEMENTS` elements.
    """
    at = 0
    while at < len(data):
        found: list[memoryview] = []
        stop = at + SLICE
        while at < min(stop, len(data)) and len(found) < SLICE_ELEMENTS:
            begin = at + _LENGTH.size
            at = begin + _LENGTH.unpack_from(data, at)[0]
            found.append(data[begin:at])
        yield found


def _number_code(spec: TensorSpec) -> str:
    code = _NUMBERS.get(spec.datatype)
    if code is None:
        raise InvalidRequestError(f"output {spec.name!r} is {spec.datatype}, which cannot be classified")
    return code


def classified(spec: TensorSpec, data: memoryview, count: int, batched: bool) -> Steps[tuple[TensorSpec, bytes]]:
    """Return the ``count`` largest elements of each row, as Triton's classification extension defines.

    The result is a BYTES tensor whose elements have the form ``value:index``.

    Raises:
        InvalidRequestError: the tensor is not numeric, or ``count`` is less than 1 or too large.
    """
    _number_code(spec)
    if count < 1:
        raise InvalidRequestError(f"classification is {count}; it must be at least 1")
    rows = spec.shape[0] if batched and spec.shape else 1
    width = prod(spec.shape) // rows if rows else 0
    count = min(count, width)
    if count > MAX_CLASSES and width > SLICE_ELEMENTS:
        raise InvalidRequestError(
            f"classification is {count} of {width}; at most {MAX_CLASSES} are accepted: request the output itself"
        )
    parts: list[bytes] = []
    compared = 0
    for row in range(rows):
        best = _Largest(count)
        for values in number_slices(spec, data, row * width, (row + 1) * width):
            if compared >= SLICE_ELEMENTS:
                compared = 0
                yield
            best.add(values)
            compared += len(values)
        for value, place in best.found():
            parts += _with_length(f"{value:f}:{place}" if isinstance(value, float) else f"{int(value)}:{place}")
    encoded = b"".join(parts)
    shape = (rows, count) if batched else (count,)
    return TensorSpec(spec.name, Datatype.BYTES.value, shape, len(encoded)), encoded


class _Largest:
    """The largest elements of a row, and their places.

    Of several equal elements, the first counts as the largest. NaN counts as smaller than all numbers.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._best: list[tuple[Any, int]] = []
        self._nans: list[tuple[Any, int]] = []
        self._seen = 0

    def add(self, values: tuple[Any, ...]) -> None:
        """Compare the next elements of the row with the largest elements so far."""
        before, self._seen = self._seen, self._seen + len(values)
        numbers = [place for place, value in enumerate(values) if value == value]
        ranked = sorted(numbers, key=values.__getitem__, reverse=True)[: self._count]
        new = [(values[place], before + place) for place in ranked]
        self._best = sorted([*self._best, *new], key=itemgetter(0), reverse=True)[: self._count] if before else new
        if len(numbers) < len(values) and len(self._nans) < self._count:
            self._nans += [(value, before + place) for place, value in enumerate(values) if value != value]

    def found(self) -> list[tuple[Any, int]]:
        """Return the elements and their places, the largest first."""
        return (self._best + self._nans)[: self._count]


def _with_length(text: str) -> tuple[bytes, bytes]:
    content = text.encode()
    return _LENGTH.pack(len(content)), content
