"""Messages to headers of frames and back, and payloads to the shares of a batch's requests.

Rules of the file: whatever a peer sends becomes a message of its direction or a `ProtocolError`, and nothing else; the
types of `clockwork.messages` are the schema, there is no other.
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
"""A header's message; raises `ProtocolError`."""

encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder().encode
"""Any message's header."""


def _decoder(name: str, schema: Any) -> Decode[Any]:
    decode = msgspec.msgpack.Decoder(schema).decode

    def decode_or_say_why(header: Received) -> Any:
        try:
            return decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"expected {name}, found something else: {error}") from error

    return decode_or_say_why


decode_request: Final[Decode[Request | LinkMessage]] = _decoder("a request", Request | LinkMessage)
"""Client to controller."""

decode_response: Final[Decode[Response | LinkMessage]] = _decoder("a response", Response | LinkMessage)
"""Controller to client."""

decode_action: Final[Decode[Action | LinkMessage]] = _decoder("an action", Action | LinkMessage)
"""Controller to worker."""

decode_result: Final[Decode[Result | LinkMessage]] = _decoder("a result", Result | LinkMessage)
"""Worker to controller."""


def input_sizes(action: Infer) -> list[Bytes]:
    """How many bytes of the action's payload belong to each input: none, if it is generated or lies elsewhere."""
    return [it.payload_bytes if it.arena_offset < 0 else 0 for it in action.inputs]


def output_sizes(result: InferResult) -> list[Bytes]:
    """How many bytes of the result's payload belong to each of its outputs."""
    return [sum(tensor.nbytes for tensor in it.tensors) for it in result.outputs]


def split_payload(payload: Sendable, sizes: Sequence[Bytes]) -> list[memoryview]:
    """Views of consecutive parts of a payload, one for each size.

    Raises:
        ProtocolError: a size is negative, or they do not add up to the payload's.
    """
    view = flat(payload)
    if sum(sizes) != len(view) or any(size < 0 for size in sizes):
        raise ProtocolError(f"{len(view)} bytes of payload came with a message that describes {sum(sizes)}")
    parts = []
    start = 0
    for size in sizes:
        parts.append(view[start : start + size])
        start += size
    return parts
