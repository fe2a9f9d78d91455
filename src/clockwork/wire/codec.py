"""Encodes messages as headers of frames, decodes them, and splits a batch's payload into the parts of its requests.

Rules of the file: any bytes from a peer decode to a message that is valid in that direction, or raise `ProtocolError`.
The types in `clockwork.messages` are the only schema.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from clockwork.errors import ProtocolError
from clockwork.messages.actions import Action, Infer
from clockwork.messages.link import LinkMessage
from clockwork.messages.requests import Request, Response
from clockwork.messages.results import InferResult, Result
from clockwork.units import Bytes
from clockwork.wire.frame import Received, Sendable, flat

MessageT = TypeVar("MessageT")

Decode: TypeAlias = Callable[[Received], MessageT]
"""Decodes the message in a header; raises `ProtocolError`."""

encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder().encode
"""Encodes any message as the header of a frame."""


def _decoder(name: str, schema: Any) -> Decode[Any]:
    decode = msgspec.msgpack.Decoder(schema).decode

    def checked_decode(header: Received) -> Any:
        try:
            return decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"header is not {name}: {error}") from error

    return checked_decode


decode_request: Final[Decode[Request | LinkMessage]] = _decoder("a request", Request | LinkMessage)
"""Messages from client to controller."""

decode_response: Final[Decode[Response | LinkMessage]] = _decoder("a response", Response | LinkMessage)
"""Messages from controller to client."""

decode_action: Final[Decode[Action | LinkMessage]] = _decoder("an action", Action | LinkMessage)
"""Messages from controller to worker."""

decode_result: Final[Decode[Result | LinkMessage]] = _decoder("a result", Result | LinkMessage)
"""Messages from worker to controller."""


def input_sizes(action: Infer) -> list[Bytes]:
    """Return the bytes of the action's payload that belong to each input; 0 if it is generated or in shared memory."""
    return [share.payload_bytes if share.arena_offset < 0 else 0 for share in action.inputs]


def output_sizes(result: InferResult) -> list[Bytes]:
    """Return the bytes of the result's payload that belong to each of its outputs."""
    return [sum(tensor.nbytes for tensor in output.tensors) for output in result.outputs]


def split_payload(payload: Sendable, sizes: Sequence[Bytes]) -> list[memoryview]:
    """Return views of consecutive parts of a payload, one for each size.

    Raises:
        ProtocolError: a size is negative, or the sizes do not add up to the payload's.
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
