"""Limits the size of messages before they are parsed, because the parser makes all objects of a message in one step.

The lengths of fields are read from the encoded message (Protocol Buffers, "Encoding"), without reading strings, bytes
and packed numbers. The parser checks whether the message is valid. Field numbers are those of the Open Inference
Protocol v2.
"""

from collections.abc import Iterator
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.units import KIB, MIB, Bytes, show_bytes

MAX_TYPED_FLOATS: Final[Bytes] = 4 * MIB
"""Limit on a request's encoded ``fp32_contents`` and ``fp64_contents``, in bytes."""

MAX_TYPED: Final[Bytes] = 1 * MIB
"""Limit on a request's encoded contents of all other types, in bytes. It is lower because an element may take only one
byte."""

MAX_DESCRIPTION: Final[Bytes] = 64 * KIB
"""Limit on a request without the contents of its tensors, in bytes: names, shapes and parameters."""

MAX_FIELDS: Final = 2048
"""Limit on the fields of a long request, including those of its tensors. A request with 256 tensors has fewer."""

MAX_UNSCANNED: Final[Bytes] = 16 * KIB
"""Length in bytes up to which a message is parsed without a scan."""

MAX_OTHER_METHOD: Final[Bytes] = 64 * KIB
"""Limit on a message of any method but inference, in bytes."""

_REQUEST_INPUTS: Final = 5
_REQUEST_RAW: Final = 7
_TENSOR_CONTENTS: Final = 5
_FLOATS: Final = (6, 7)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_infer(data: bytes) -> None:
    """Check the size of a ``ModelInferRequest`` without its ``raw_input_contents``.

    Raises:
        InvalidRequestError: the typed contents or the rest are too long.
    """
    if len(data) > MAX_UNSCANNED:
        _Scan(data).request()


def check_other(data: bytes, name: str) -> None:
    """Check the size of a message of another method.

    Raises:
        InvalidRequestError: the message is too long.
    """
    if len(data) > MAX_OTHER_METHOD:
        raise InvalidRequestError(f"{name} has {len(data)} bytes; at most {show_bytes(MAX_OTHER_METHOD)} are accepted")


class _Scan:
    """Adds up the lengths of one message's fields."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields = 0
        self._typed: Bytes = 0
        self._floats: Bytes = 0
        self._rest: Bytes = 0

    def request(self) -> None:
        for number, begin, end, size in self._each(0, len(self._data)):
            if number == _REQUEST_INPUTS:
                self._tensor(begin, end)
            elif number != _REQUEST_RAW:
                self._rest += size
            self._check()

    def _tensor(self, at: int, stop: int) -> None:
        for number, begin, end, size in self._each(at, stop):
            if number == _TENSOR_CONTENTS:
                self._contents(begin, end)
            else:
                self._rest += size

    def _contents(self, at: int, stop: int) -> None:
        """Count the contents of a tensor: usually one packed field. Any other fields count as non-float elements."""
        try:
            (number, begin, end, _), *more = self._each(at, stop, 2)
        except ValueError:  # no field
            return
        if more or number not in _FLOATS:
            self._typed += stop - at
        else:
            self._floats += end - begin

    def _each(self, at: int, stop: int, limit: int | None = None) -> Iterator[tuple[int, int, int, Bytes]]:
        """Yield the number, the content's start and end, and the length of each field, or of the first ``limit``."""
        data = self._data
        found = 0
        while at < stop and found != limit:
            found += 1
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise InvalidRequestError(f"request has more than {MAX_FIELDS} fields, which is the limit")
            begin = at
            tag, at = _varint(data, at, stop)
            kind = tag & 7
            if kind == _VARINT:
                content, at = at, _varint(data, at, stop)[1]
            elif kind == _BYTES:
                length, content = _varint(data, at, stop)
                at = content + length
            elif kind in (_FIXED32, _FIXED64):
                content, at = at, at + (4 if kind == _FIXED32 else 8)
            else:  # a group, which the protocol does not use
                content = at = stop + 1
            if at > stop:
                raise InvalidRequestError(f"message of {len(data)} bytes is not a valid ModelInferRequest")
            yield (tag & 0xFFFFFFFF) >> 3, content, at, at - begin

    def _check(self) -> None:
        if self._typed > MAX_TYPED or self._floats > MAX_TYPED_FLOATS:
            raise InvalidRequestError(
                f"typed contents exceed the limit of {show_bytes(MAX_TYPED_FLOATS)} of floats or "
                f"{show_bytes(MAX_TYPED)} of other types; send raw_input_contents"
            )
        if self._rest > MAX_DESCRIPTION:
            raise InvalidRequestError(f"names, shapes and parameters exceed the limit of {show_bytes(MAX_DESCRIPTION)}")


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Return a number and its end; an end after ``stop`` means that the number is invalid."""
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, stop + 1
