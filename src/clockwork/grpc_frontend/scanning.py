"""Limits the size of messages before they are parsed.

The parser creates all objects of a message in one step, which would block the event loop for a large message. So this
module first adds up the lengths of the fields in the encoded message. The scan does not read strings, bytes or packed
numbers, and does not check whether the message is valid. The parser reads and checks the message later. The Open
Inference Protocol v2 defines the field numbers.
"""

from collections.abc import Iterator
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.units import KIB, MIB, Bytes, show_bytes

MAX_TYPED_FLOATS: Final[Bytes] = 4 * MIB
"""Largest size in bytes of a request's encoded ``fp32_contents`` and ``fp64_contents`` together."""

MAX_TYPED: Final[Bytes] = 1 * MIB
"""Largest size in bytes of a request's encoded contents of all other types together.

This limit is smaller than `MAX_TYPED_FLOATS`, because an element of these types may take only one byte.
"""

MAX_DESCRIPTION: Final[Bytes] = 64 * KIB
"""Largest size in bytes of everything in a request except the contents of tensors: names, shapes and parameters."""

MAX_FIELDS: Final = 2048
"""Largest number of fields of a long request, including the fields of its tensors.

The limit is enough for 256 tensors.
"""

MAX_UNSCANNED: Final[Bytes] = 16 * KIB
"""Largest message in bytes that is parsed without a scan."""

MAX_OTHER_METHOD: Final[Bytes] = 64 * KIB
"""Largest message in bytes of any method other than inference."""

_REQUEST_INPUTS: Final = 5
_REQUEST_RAW: Final = 7
_TENSOR_CONTENTS: Final = 5
_FLOATS: Final = (6, 7)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_infer(data: bytes | memoryview) -> None:
    """Check the size of a ``ModelInferRequest``. The size of ``raw_input_contents`` does not count.

    Raises:
        InvalidRequestError: the typed contents are too long, or the names, shapes and parameters are too long.
    """
    if len(data) > MAX_UNSCANNED:
        _Scan(data).request()


def check_other(data: bytes | memoryview, name: str) -> None:
    """Check the size of a message of a method other than inference.

    Raises:
        InvalidRequestError: the message is too long.
    """
    if len(data) > MAX_OTHER_METHOD:
        raise InvalidRequestError(f"{name} has {len(data)} bytes; at most {show_bytes(MAX_OTHER_METHOD)} are accepted")


class _Scan:
    """The total lengths of the fields of one message, by kind."""

    def __init__(self, data: bytes | memoryview) -> None:
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
        """Count the contents of a tensor, which are usually one packed field.

        All fields except packed floats count towards the limit on other types.
        """
        try:
            (number, begin, end, _), *more = self._each(at, stop, 2)
        except ValueError:  # the contents have no field
            return
        if more or number not in _FLOATS:
            self._typed += stop - at
        else:
            self._floats += end - begin

    def _each(self, at: int, stop: int, limit: int | None = None) -> Iterator[tuple[int, int, int, Bytes]]:
        """For each field, yield its number, the start and the end of its content, and its length.

        Stop after ``limit`` fields, if there is a limit.
        """
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
            else:  # the field is a group; the protocol has no groups
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


def _varint(data: bytes | memoryview, at: int, stop: int) -> tuple[int, int]:
    """Decode a varint, and return the number and the position after it.

    If the number is invalid, the returned position is greater than ``stop``.
    """
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, stop + 1
