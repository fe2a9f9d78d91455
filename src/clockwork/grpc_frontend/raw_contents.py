"""Takes raw tensors out of a request, and puts them into a response, without protobuf's copies of each tensor.

Theory of operation. protobuf copies every ``raw_input_contents`` twice, into its message and out of it. `split` walks
over the outermost fields of a ``ModelInferRequest`` and takes the raw tensors as views; protobuf parses the rest, which
is small. `split` understands only the encoding that all known clients write. If a message is encoded otherwise,
protobuf parses all of it. So both ways accept and refuse the same bytes, with the same result
(`tests/grpc_frontend/test_raw_contents.py` compares them). Source: protobuf.dev/programming-guides/encoding.

No clock and no I/O.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from clockwork.messages.tensors import MAX_NAME
from clockwork.units import KIB, Bytes

MIN_SPLIT_BYTES: Final[Bytes] = 16 * KIB
"""Length below which a message is parsed whole, because that takes less time than walking over its fields."""

MAX_FIELDS: Final = 1024
"""Limit on the outermost fields that `split` walks over. A request with 256 inputs, outputs and raw tensors has
fewer."""

_LENGTH_DELIMITED: Final = 2
_TAGS: Final = frozenset(number << 3 | _LENGTH_DELIMITED for number in range(1, 8))
"""Tags of the fields of a ModelInferRequest, which have the numbers 1 to 7 and are length-delimited."""

_MODEL_NAME: Final = bytes([1 << 3 | _LENGTH_DELIMITED])
_RAW_INPUT: Final = 7 << 3 | _LENGTH_DELIMITED
_RAW_OUTPUT: Final = bytes([6 << 3 | _LENGTH_DELIMITED])
_INFER_RESPONSE: Final = bytes([2 << 3 | _LENGTH_DELIMITED])
_MAX_LENGTH_BYTES: Final = 5  # of a length below 2**31, which is protobuf's limit for a message


class Split(NamedTuple):
    """A message without its raw tensors, and the raw tensors as views of the message's memory."""

    rest: bytes
    raw: tuple[memoryview, ...]


def split(data: bytes) -> Split | None:
    """Take the raw tensors out of a serialised ModelInferRequest.

    Returns None if the message has no raw tensors, or if its encoding is unusual or broken and protobuf must parse it.
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


def model_name(data: bytes) -> str:
    """Return the model's name if it is the first field of a serialised ModelInferRequest, else an empty string.

    All known clients write the name first. If a later field replaces the name, this returns the first one.
    """
    if data[:1] != _MODEL_NAME:
        return ""
    length, at = _length(data, 1)
    if not 0 <= length <= min(MAX_NAME, len(data) - at):
        return ""
    return data[at : at + length].decode("utf-8", "replace")


def with_raw_outputs(message: bytes, tensors: Iterable[Any]) -> bytes:
    """Append raw tensors to a serialised ModelInferResponse, as its last field; each tensor is copied once."""
    parts: list[Any] = [message]
    for tensor in tensors:
        parts += (_RAW_OUTPUT, varint(len(tensor)), tensor)
    return b"".join(parts)


def in_stream(response: bytes) -> bytes:
    """Return the ModelStreamInferResponse that carries a serialised ModelInferResponse."""
    return b"".join((_INFER_RESPONSE, varint(len(response)), response))


def varint(value: int) -> bytes:
    """Encode a number, at least 0, as protobuf does: in groups of 7 bits, the lowest first."""
    if value < 1 << 7:  # most values have one or two groups
        return bytes((value,))
    if value < 1 << 14:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Return the length encoded at ``at`` and its end; -1 if it is cut off, too large or not encoded minimally."""
    length = 0
    for index, byte in enumerate(data[at : at + _MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            shortest = byte or not index
            return (length, at + index + 1) if shortest else (-1, at)
    return -1, at
