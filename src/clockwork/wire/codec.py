"""Encodes and decodes the messages of the native protocol, and splits the payload of a batch.

A message is the header of a frame. Each direction of a connection has its own types of messages. If bytes from a peer
are not a valid message for that direction, `ProtocolError` is raised. The types in `clockwork.messages` define the
format.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from clockwork.errors import ProtocolError
from clockwork.messages.actions import Action, Infer
from clockwork.messages.files import FilePart, FileRequest
from clockwork.messages.link import LinkMessage
from clockwork.messages.requests import Request, Response
from clockwork.messages.results import InferResult, Result
from clockwork.units import Bytes
from clockwork.wire.frame import Received, Sendable, flat

MessageT = TypeVar("MessageT")

Decode: TypeAlias = Callable[[Received], MessageT]
"""A function that decodes the message in a header.

The function raises `ProtocolError` if the header is not a valid message.
"""

encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder().encode
"""Encode a message of any type as the header of a frame."""


def _decoder(name: str, schema: Any) -> Decode[Any]:
    decode = msgspec.msgpack.Decoder(schema).decode

    def checked_decode(header: Received) -> Any:
        try:
            return decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"header is not {name}: {error}") from error

    return checked_decode


decode_request: Final[Decode[Request | LinkMessage]] = _decoder("a request", Request | LinkMessage)
"""Decode a message from a client to the controller."""

decode_response: Final[Decode[Response | LinkMessage]] = _decoder("a response", Response | LinkMessage)
"""Decode a message from the controller to a client."""

decode_action: Final[Decode[Action | LinkMessage]] = _decoder("an action", Action | LinkMessage)
"""Decode a message from the controller to a worker."""

decode_result: Final[Decode[Result | FileRequest | LinkMessage]] = _decoder(
    "a result", Result | FileRequest | LinkMessage
)
"""Decode a message from a worker to the controller, over either of the worker's connections."""

decode_part: Final[Decode[FilePart | LinkMessage]] = _decoder("a part of a file", FilePart | LinkMessage)
"""Decode a message from the controller over a worker's connection for files."""


def input_sizes(action: Infer) -> list[Bytes]:
    """Return, for each input, the number of bytes in the action's payload.

    The number is 0 for an input that the worker generates, and for an input in shared memory.
    """
    return [share.payload_bytes if share.arena_offset < 0 else 0 for share in action.inputs]


def output_sizes(result: InferResult) -> list[Bytes]:
    """Return, for each output, the number of bytes in the result's payload."""
    return [sum(tensor.nbytes for tensor in output.tensors) for output in result.outputs]


def split_payload(payload: Sendable, sizes: Sequence[Bytes]) -> list[memoryview]:
    """Return views of consecutive parts of a payload, one for each size.

    Raises:
        ProtocolError: a size is negative, or the sum of the sizes is not the payload's size.
    """
    view = flat(payload)
    if sum(sizes) != len(view) or any(size < 0 for size in sizes):
        raise ProtocolError(f"payload has {len(view)} bytes, but the message describes {sum(sizes)}")
    parts = []
    start = 0
    for size in sizes:
        parts.append(view[start : start + size])
        start += size
    return parts
