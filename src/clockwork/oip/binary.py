"""The body of an inference request, taken apart: JSON, and behind it the tensors that came binary.

Rules of the file: nothing is copied when all inputs are binary: the payload is a view of the body. Every length that a
client says is held against what is there (Open Inference Protocol v2 and Triton's binary tensor data extension).
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, TensorSpec, check_specs
from clockwork.oip.elements import to_bytes
from clockwork.units import MIB

MAX_JSON_BYTES: Final = 16 * MIB
"""JSON is read on the event loop that everybody's requests are planned on; what is larger has to come binary."""


class TensorParameters(Struct, frozen=True):
    """Of an input or an output; what is not known is not looked at."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


_NO_PARAMETERS: Final = TensorParameters()


class InputHead(Struct, frozen=True):
    """An input; ``data`` is its JSON, empty if it came binary."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: TensorParameters = _NO_PARAMETERS
    data: Raw = field(default_factory=Raw)


class OutputHead(Struct, frozen=True):
    """An output that is wanted."""

    name: str
    parameters: TensorParameters = _NO_PARAMETERS


class InferHead(Struct, frozen=True):
    """The JSON of an inference request."""

    inputs: tuple[InputHead, ...]
    id: str = ""
    outputs: tuple[OutputHead, ...] = ()
    parameters: dict[str, Any] = {}


_decode: Final = msgspec.json.Decoder(InferHead).decode


def parse_infer(body: Any, header_bytes: int | None) -> tuple[InferHead, tuple[TensorSpec, ...], Any]:
    """What is asked, the inputs' specs, and their payload. ``header_bytes``: Inference-Header-Content-Length, if any.

    Raises:
        InvalidRequestError: it is no request, or its lengths do not add up.
    """
    view = memoryview(body)
    length = len(view) if header_bytes is None else header_bytes
    if not 0 < length <= len(view):
        raise InvalidRequestError(f"the JSON has {length} bytes, it is said, and the body {len(view)}")
    if length > MAX_JSON_BYTES:
        raise InvalidRequestError(
            f"{length} bytes of JSON; at most {MAX_JSON_BYTES} are read: send tensors with the binary data extension"
        )
    try:
        head = _decode(view[:length])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the JSON is no inference request: {error}") from None
    _check_count(head)
    specs, payload = _inputs(head, view[length:])
    check_specs(specs, len(payload))
    return head, specs, payload


def _check_count(head: InferHead) -> None:
    for what, tensors in (("inputs", head.inputs), ("outputs", head.outputs)):
        if len(tensors) > MAX_TENSORS:
            raise InvalidRequestError(f"{len(tensors)} {what}; at most {MAX_TENSORS} are accepted")
        for tensor in tensors:
            if tensor.parameters.shared_memory_region is not None:
                raise InvalidRequestError(f"{tensor.name!r}: shared memory is not supported: send the data")


def _inputs(head: InferHead, rest: memoryview) -> tuple[tuple[TensorSpec, ...], Any]:
    specs: list[TensorSpec] = []
    parts: list[Any] = []
    at = 0
    binary = True
    for tensor in head.inputs:
        size = tensor.parameters.binary_data_size
        if size is not None:
            if tensor.data:
                raise InvalidRequestError(f"input {tensor.name!r} has data, and binary_data_size too: send one")
            if not 0 <= size <= len(rest) - at:
                raise InvalidRequestError(
                    f"input {tensor.name!r}: binary_data_size is {size}, and {len(rest) - at} bytes are left"
                )
            parts.append(rest[at : at + size])
            at += size
        elif tensor.data:
            binary = False
            parts.append(_from_json(tensor))
        else:
            raise InvalidRequestError(f"input {tensor.name!r} has neither data nor binary_data_size")
        specs.append(TensorSpec(tensor.name, tensor.datatype, tensor.shape, len(parts[-1])))
    if at != len(rest):
        raise InvalidRequestError(f"{len(rest)} bytes follow the JSON, and the inputs take {at} of them")
    return tuple(specs), rest if binary else b"".join(parts)


def _from_json(tensor: InputHead) -> bytes:
    if len(tensor.shape) > MAX_RANK or any(dim < 0 for dim in tensor.shape):
        raise InvalidRequestError(f"input {tensor.name!r} has an impossible shape of {len(tensor.shape)} dimensions")
    try:
        data = msgspec.json.decode(tensor.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"input {tensor.name!r}: the data is no JSON: {error}") from None
    return to_bytes(tensor.name, tensor.datatype, tensor.shape, data)
