"""The body of an inference request, taken apart: JSON, and behind it the tensors that came binary.

Nothing is copied when all inputs are binary: the payload is a view of the body. Every length that a client states is
compared with what is there (Open Inference Protocol v2 and Triton's binary tensor data extension).

The body is read in two parts, so that names, datatypes and shapes can be checked before elements are decoded:
`parse_infer` reads the JSON, and `inputs_of` decodes the tensors. Both stop between steps of bounded work.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, TensorSpec, check_specs
from clockwork.oip.elements import SLICE, Text, add_elements
from clockwork.oip.outline import COPIED, Outline, outlined
from clockwork.steps import Steps
from clockwork.units import MIB, Bytes, show_bytes

DEFAULT_MAX_JSON: Final[Bytes] = 16 * MIB
"""JSON of one request, or of one response: reading and writing it takes the time of the event loop."""


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


class Asked(Struct, frozen=True):
    """A request whose JSON is read: ``rest`` are the bytes behind it, ``outline`` has the lists cut out of it."""

    head: InferHead
    rest: memoryview
    all_binary: bool  #: no input has its elements in the JSON
    outline: Outline | None = None

    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs; those with elements in the JSON are taken to have no bytes."""
        return tuple(
            TensorSpec(it.name, it.datatype, it.shape, it.parameters.binary_data_size or 0) for it in self.head.inputs
        )


def parse_infer(body: Any, header_bytes: int | None, max_json: Bytes = DEFAULT_MAX_JSON) -> Steps[Asked]:
    """Read the JSON of a request; ``header_bytes``: Inference-Header-Content-Length, if any.

    Raises:
        InvalidRequestError: it is no request, or there is too much of it.
    """
    view = memoryview(body)
    length = len(view) if header_bytes is None else header_bytes
    if not 0 < length <= len(view):
        raise InvalidRequestError(f"the JSON has {length} bytes, it is said, and the body {len(view)}")
    if length > max_json:
        raise InvalidRequestError(
            f"the request has {length} bytes of JSON; the limit is {show_bytes(max_json)}: send tensors with the "
            "binary data extension, or raise --max-json"
        )
    outline = None
    text: Any = view[:length]
    if length > SLICE:
        outline = yield from outlined(text)
        yield
        text = outline.rest
    try:
        head = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the JSON is no inference request: {error}") from None
    _check_count(head)
    binary = True
    for tensor in head.inputs:
        if len(tensor.shape) > MAX_RANK:
            raise InvalidRequestError(
                f"input {tensor.name!r} has {len(tensor.shape)} dimensions; at most {MAX_RANK} are accepted"
            )
        binary = binary and tensor.parameters.binary_data_size is not None
    return Asked(head, view[length:], binary, outline)


def _check_count(head: InferHead) -> None:
    for what, tensors in (("inputs", head.inputs), ("outputs", head.outputs)):
        if len(tensors) > MAX_TENSORS:
            raise InvalidRequestError(f"{len(tensors)} {what}; at most {MAX_TENSORS} are accepted")
        for tensor in tensors:
            if tensor.parameters.shared_memory_region is not None:
                raise InvalidRequestError(f"{tensor.name!r}: shared memory is not supported: send the data")


def inputs_of(asked: Asked) -> Steps[tuple[tuple[TensorSpec, ...], Any]]:
    """The inputs' specs and their payload.

    Raises:
        InvalidRequestError: the elements are not those of the specs, or lengths do not add up.
    """
    rest = asked.rest
    specs: list[TensorSpec] = []
    at = 0
    binary = asked.all_binary
    payload = bytearray()
    for tensor in asked.head.inputs:
        size = tensor.parameters.binary_data_size
        before = len(payload)
        if size is not None:
            if tensor.data:
                raise InvalidRequestError(f"input {tensor.name!r} has data, and binary_data_size too: send one")
            if not 0 <= size <= len(rest) - at:
                raise InvalidRequestError(
                    f"input {tensor.name!r}: binary_data_size is {size}, and {len(rest) - at} bytes are left"
                )
            if not binary:
                yield from _add_bytes(rest[at : at + size], payload)
            at += size
        elif tensor.data:
            yield from _add_from_json(tensor, asked.outline, payload)
            size = len(payload) - before
        else:
            raise InvalidRequestError(f"input {tensor.name!r} has neither data nor binary_data_size")
        specs.append(TensorSpec(tensor.name, tensor.datatype, tensor.shape, size))
    if at != len(rest):
        raise InvalidRequestError(f"{len(rest)} bytes follow the JSON, and the inputs take {at} of them")
    found = tuple(specs)
    check_specs(found, len(rest) if binary else len(payload))
    return found, rest if binary else payload


def _add_bytes(data: memoryview, payload: bytearray) -> Steps[None]:
    for at in range(0, len(data), COPIED):
        if at:
            yield
        payload += data[at : at + COPIED]


def _add_from_json(tensor: InputHead, outline: Outline | None, payload: bytearray) -> Steps[None]:
    if any(dim < 0 for dim in tensor.shape):
        raise InvalidRequestError(f"input {tensor.name!r} has an impossible shape: a dimension is negative")
    data = bytes(tensor.data)
    text = Text(data, 0, len(data)) if outline is None else outline.list_of(data)
    yield from add_elements(tensor.name, tensor.datatype, tensor.shape, text, payload)
