"""Limits for messages before they are parsed: parsing makes objects of all that a message contains, in one step.

The lengths of fields are read from the encoded message (Protocol Buffers, "Encoding"), without looking into strings,
bytes and packed numbers. Whether the message is valid is left to the parser. Numbers of fields are those of the Open
Inference Protocol v2.
"""

from collections.abc import Iterator
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.units import KIB, MIB, Bytes, show_bytes

MAX_TYPED_FLOATS: Final[Bytes] = 4 * MIB
"""Encoded ``fp32_contents`` and ``fp64_contents`` of one request."""

MAX_TYPED: Final[Bytes] = 1 * MIB
"""Encoded contents of all other types of one request: an element takes one or two bytes at least."""

MAX_DESCRIPTION: Final[Bytes] = 64 * KIB
"""What one request has beside the contents of its tensors: names, shapes and parameters."""

MAX_FIELDS: Final = 2048
"""Fields of a long request, those of its tensors included; 256 tensors have fewer."""

UNSCANNED: Final[Bytes] = 16 * KIB
"""A shorter message is parsed as it is."""

MAX_QUESTION: Final[Bytes] = 64 * KIB
"""A message of any other method."""

_REQUEST_INPUTS: Final = 5
_REQUEST_RAW: Final = 7
_TENSOR_CONTENTS: Final = 5
_FLOATS: Final = (6, 7)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_infer(data: bytes) -> None:
    """Check the size of a ``ModelInferRequest`` beside its ``raw_input_contents``.

    Raises:
        InvalidRequestError: it has too many typed contents, or too much else.
    """
    if len(data) > UNSCANNED:
        _Scan(data).request()


def check_question(data: bytes, name: str) -> None:
    """Check the size of a message of another method.

    Raises:
        InvalidRequestError: it is too long.
    """
    if len(data) > MAX_QUESTION:
        raise InvalidRequestError(f"a {name} of {len(data)} bytes; at most {show_bytes(MAX_QUESTION)} are accepted")


class _Scan:
    """Adds up lengths in one message."""

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
        """Most contents are one packed field; else all of it counts as small elements."""
        try:
            (number, begin, end, _), *more = self._each(at, stop, 2)
        except ValueError:  # no field
            return
        if more or number not in _FLOATS:
            self._typed += stop - at
        else:
            self._floats += end - begin

    def _each(self, at: int, stop: int, most: int | None = None) -> Iterator[tuple[int, int, int, Bytes]]:
        """Each field, or the first ``most``: number, where the content begins and ends, and the length of it all."""
        data = self._data
        found = 0
        while at < stop and found != most:
            found += 1
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise InvalidRequestError(f"the request has more than {MAX_FIELDS} fields; that is the limit")
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
            else:  # groups, which the protocol has not
                content = at = stop + 1
            if at > stop:
                raise InvalidRequestError(f"the {len(data)} bytes are no ModelInferRequest")
            yield (tag & 0xFFFFFFFF) >> 3, content, at, at - begin

    def _check(self) -> None:
        if self._typed > MAX_TYPED or self._floats > MAX_TYPED_FLOATS:
            raise InvalidRequestError(
                f"the typed contents have more than {show_bytes(MAX_TYPED_FLOATS)} of floats or "
                f"{show_bytes(MAX_TYPED)} of others; that is the limit: send raw_input_contents"
            )
        if self._rest > MAX_DESCRIPTION:
            raise InvalidRequestError(
                f"the request has more than {show_bytes(MAX_DESCRIPTION)} beside its tensors; that is the limit"
            )


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number and where it ends; past the end if there is none."""
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, stop + 1
