"""Reads raw tensors from a request and writes them into a response, without the copies that protobuf makes.

protobuf copies each tensor in ``raw_input_contents`` twice: into its message and out of its message. To avoid these
copies, `split` reads the outermost fields of a ``ModelInferRequest`` itself, and returns the raw tensors as views of
the request's memory. protobuf parses only the rest of the message, which is small.

`split` supports only the encoding that all known clients write. If the encoding differs, protobuf parses the whole
message. Both ways have the same result (`tests/grpc_frontend/test_raw_contents.py` compares them). The page
protobuf.dev/programming-guides/encoding describes the encoding. This module uses no clock and no I/O.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from clockwork.messages.tensors import MAX_NAME
from clockwork.units import KIB, Bytes

MIN_SPLIT_BYTES: Final[Bytes] = 16 * KIB
"""Shortest message that is split. protobuf parses shorter messages completely, because this takes less time."""

MAX_FIELDS: Final = 1024
"""Largest number of outermost fields that `split` reads.

The limit is enough for a request with 256 inputs, 256 outputs and 256 raw tensors.
"""

_LENGTH_DELIMITED: Final = 2
_TAGS: Final = frozenset(number << 3 | _LENGTH_DELIMITED for number in range(1, 8))
"""Tags of the fields of a ModelInferRequest. The fields have the numbers 1 to 7, and all are length-delimited."""

_MODEL_NAME: Final = bytes([1 << 3 | _LENGTH_DELIMITED])
_MODEL_VERSION: Final = bytes([2 << 3 | _LENGTH_DELIMITED])
_RAW_INPUT: Final = 7 << 3 | _LENGTH_DELIMITED
_RAW_OUTPUT: Final = bytes([6 << 3 | _LENGTH_DELIMITED])
_INFER_RESPONSE: Final = bytes([2 << 3 | _LENGTH_DELIMITED])
_MAX_LENGTH_BYTES: Final = 5  # a message of protobuf is shorter than 2**31 bytes


class Split(NamedTuple):
    """A message that lacks its raw tensors, and the raw tensors as views of the original message's memory."""

    rest: bytes
    raw: tuple[memoryview, ...]


def split(data: bytes | memoryview) -> Split | None:
    """Separate a serialised ModelInferRequest from its raw tensors.

    Return None if the message has no raw tensors. Also return None if the message's encoding is unusual or invalid, so
    that protobuf must parse the message.
    """
    view, end, at = memoryview(data), len(data), 0
    raw: list[memoryview] = []
    rest: list[memoryview] = []
    for _ in range(MAX_FIELDS):
        if at == end:
            return Split(b"".join(rest), tuple(raw)) if raw else None
        begin, tag = at, data[at]
        if tag not in _TAGS:
            return None
        length, at = _length(data, at + 1)
        if length < 0 or length > end - at:
            return None
        at += length
        if tag == _RAW_INPUT:
            raw.append(view[at - length : at])
        else:
            rest.append(view[begin:at])
    return None


def model_and_version(data: bytes | memoryview) -> tuple[str, str]:
    """Return the model's name and version from a serialised ModelInferRequest, if they are the message's first fields.

    All known clients write these fields first. If other fields come first, the result is two empty strings. If the
    message contains a field twice, this function returns the first value, while protobuf uses the second value.
    """
    name, at = _text(data, 0, _MODEL_NAME)
    return (name, _text(data, at, _MODEL_VERSION)[0]) if name else ("", "")


def raw_offset(data: bytes | memoryview) -> int:
    """Return the position of the first raw tensor in a message that begins with ``data``.

    The result is the position after ``data``'s last complete field if no raw tensor begins in ``data``.
    """
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        length, after = _length(data, at + 1)
        if tag not in _TAGS or length < 0:
            return at
        if tag == _RAW_INPUT:
            return after
        at = after + length
    return min(at, end)


def _text(data: bytes | memoryview, at: int, tag: bytes) -> tuple[str, int]:
    """Return the text of the field at ``at``, and the position after it.

    If the field's tag is not ``tag``, the text is empty.
    """
    if data[at : at + 1] != tag:
        return "", at
    length, begin = _length(data, at + 1)
    if not 0 <= length <= min(MAX_NAME, len(data) - begin):
        return "", at
    return str(data[begin : begin + length], "utf-8", "replace"), begin + length


def with_raw_outputs(message: bytes, tensors: Iterable[Any]) -> bytes:
    """Append raw tensors to a serialised ModelInferResponse. Each tensor is copied once."""
    parts: list[Any] = [message]
    for tensor in tensors:
        parts += (_RAW_OUTPUT, varint(len(tensor)), tensor)
    return b"".join(parts)


def in_stream(response: bytes) -> bytes:
    """Return the ModelStreamInferResponse that contains a serialised ModelInferResponse."""
    return b"".join((_INFER_RESPONSE, varint(len(response)), response))


def varint(value: int) -> bytes:
    """Encode a number that is not negative as protobuf's varint: groups of 7 bits, the lowest group first."""
    if value < 1 << 7:  # the first two cases are faster, and most numbers have one or two groups
        return bytes((value,))
    if value < 1 << 14:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _length(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the length that is encoded at ``at``, and the position after it.

    The length is -1 if its encoding is incomplete, is too long or is not the shortest encoding.
    """
    length = 0
    for index, byte in enumerate(data[at : at + _MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            shortest = byte or not index
            return (length, at + index + 1) if shortest else (-1, at)
    return -1, at
