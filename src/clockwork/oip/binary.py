"""Decodes the body of an HTTP inference request, which is JSON followed by binary tensors.

The format is defined by the Open Inference Protocol v2 and by Triton's binary tensor data extension. Every length in
the request is compared with the length of the body. If all inputs are binary, the payload is a view of the body, so
that no tensor is copied.

`parse_infer` reads the JSON, and `inputs_of` decodes the tensors. The caller can check names, datatypes and shapes
before it calls `inputs_of`. Both functions work in steps.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, TensorSpec, check_specs
from clockwork.oip.elements import SLICE, Text, add_elements
from clockwork.oip.outline import MAX_COPIED, Outline, outlined
from clockwork.steps import Steps
from clockwork.units import MIB, Bytes, show_bytes

_NULL: Final = b"null"

DEFAULT_MAX_JSON: Final[Bytes] = 16 * MIB
"""Default limit on the JSON of a request or response, in bytes.

The limit is low because the event loop reads and writes JSON.
"""


class TensorParameters(Struct, frozen=True):
    """The parameters of an input or output that Clockwork uses. All other parameters are ignored."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


_NO_PARAMETERS: Final = TensorParameters()


class InputHead(Struct, frozen=True):
    """An input of a request. ``data`` is the JSON of its elements. ``data`` is empty if the input is binary.

    In all types of this module, a member with the value ``null`` is treated as absent, because some clients send
    ``null`` for members without a value.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    nullable_parameters: TensorParameters | None = field(default=None, name="parameters")
    data: Raw = field(default_factory=Raw)

    @property
    def parameters(self) -> TensorParameters:
        """The parameters of the input, with defaults in place of parameters that the request does not set."""
        return self.nullable_parameters or _NO_PARAMETERS

    @property
    def has_data(self) -> bool:
        """Whether the JSON contains the input's elements."""
        size = len(memoryview(self.data))
        return size > 0 and (size != len(_NULL) or bytes(self.data) != _NULL)


class OutputHead(Struct, frozen=True):
    """An output that a client requests by name."""

    name: str
    nullable_parameters: TensorParameters | None = field(default=None, name="parameters")

    @property
    def parameters(self) -> TensorParameters:
        """The parameters of the output, with defaults in place of parameters that the request does not set."""
        return self.nullable_parameters or _NO_PARAMETERS


class InferHead(Struct, frozen=True):
    """The JSON of an inference request."""

    inputs: tuple[InputHead, ...]
    id: str | None = None
    nullable_outputs: tuple[OutputHead, ...] | None = field(default=None, name="outputs")
    nullable_parameters: dict[str, Any] | None = field(default=None, name="parameters")

    @property
    def outputs(self) -> tuple[OutputHead, ...]:
        """The requested outputs. An empty tuple means that the client requests all outputs."""
        return self.nullable_outputs or ()

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the request, which may be empty."""
        return self.nullable_parameters or {}


_decode: Final = msgspec.json.Decoder(InferHead).decode


class ParsedInfer(Struct, frozen=True):
    """A request whose JSON has been read.

    ``rest`` contains the bytes after the JSON. ``outline`` contains the lists that were cut out of the JSON
    (`clockwork.oip.outline`).
    """

    head: InferHead
    rest: memoryview
    all_binary: bool  #: whether all inputs are binary
    outline: Outline | None = None

    def specs(self) -> tuple[TensorSpec, ...]:
        """Return the specs of the inputs. The size of an input is 0 bytes if its elements are in the JSON."""
        return tuple(
            TensorSpec(tensor.name, tensor.datatype, tensor.shape, tensor.parameters.binary_data_size or 0)
            for tensor in self.head.inputs
        )


def parse_infer(body: Any, header_bytes: int | None, max_json: Bytes = DEFAULT_MAX_JSON) -> Steps[ParsedInfer]:
    """Read the JSON of a request.

    ``header_bytes`` is the value of the header Inference-Header-Content-Length, or None if the request lacks it.

    Raises:
        InvalidRequestError: the JSON is not an inference request, or is too long.
    """
    view = memoryview(body)
    length = len(view) if header_bytes is None else header_bytes
    if not 0 < length <= len(view):
        raise InvalidRequestError(f"Inference-Header-Content-Length is {length}, but the body has {len(view)} bytes")
    if length > max_json:
        raise InvalidRequestError(
            f"request has {length} bytes of JSON; the limit is {show_bytes(max_json)}: send tensors as binary data, "
            "or raise --max-json"
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
        raise InvalidRequestError(f"the JSON is not an inference request: {error}") from None
    _check_count(head)
    binary = True
    for tensor in head.inputs:
        if len(tensor.shape) > MAX_RANK:
            raise InvalidRequestError(
                f"input {tensor.name!r} has {len(tensor.shape)} dimensions; at most {MAX_RANK} are accepted"
            )
        binary = binary and tensor.parameters.binary_data_size is not None
    return ParsedInfer(head, view[length:], binary, outline)


def _check_count(head: InferHead) -> None:
    for what, tensors in (("inputs", head.inputs), ("outputs", head.outputs)):
        if len(tensors) > MAX_TENSORS:
            raise InvalidRequestError(f"request has {len(tensors)} {what}; at most {MAX_TENSORS} are accepted")
        for tensor in tensors:
            if tensor.parameters.shared_memory_region is not None:
                raise InvalidRequestError(
                    f"tensor {tensor.name!r} is in shared memory, which is not supported; send its data"
                )


def inputs_of(parsed: ParsedInfer) -> Steps[tuple[tuple[TensorSpec, ...], Any]]:
    """Return the specs of the inputs and a payload with their elements.

    Raises:
        InvalidRequestError: the elements do not match the specs, or the lengths do not match the body.
    """
    rest = parsed.rest
    specs: list[TensorSpec] = []
    at = 0
    binary = parsed.all_binary
    payload = bytearray()
    for tensor in parsed.head.inputs:
        size = tensor.parameters.binary_data_size
        before = len(payload)
        if size is not None:
            if tensor.has_data:
                raise InvalidRequestError(f"input {tensor.name!r} has data and binary_data_size; send one of them")
            if not 0 <= size <= len(rest) - at:
                raise InvalidRequestError(
                    f"input {tensor.name!r} has binary_data_size {size}, but {len(rest) - at} bytes are left"
                )
            if not binary:
                yield from _add_bytes(rest[at : at + size], payload)
            at += size
        elif tensor.has_data:
            yield from _add_from_json(tensor, parsed.outline, payload)
            size = len(payload) - before
        else:
            raise InvalidRequestError(f"input {tensor.name!r} has neither data nor binary_data_size; send one of them")
        specs.append(TensorSpec(tensor.name, tensor.datatype, tensor.shape, size))
    if at != len(rest):
        raise InvalidRequestError(f"{len(rest)} bytes follow the JSON, but the inputs take {at}")
    found = tuple(specs)
    check_specs(found, len(rest) if binary else len(payload))
    return found, rest if binary else payload


def _add_bytes(data: memoryview, payload: bytearray) -> Steps[None]:
    for at in range(0, len(data), MAX_COPIED):
        if at:
            yield
        payload += data[at : at + MAX_COPIED]


def _add_from_json(tensor: InputHead, outline: Outline | None, payload: bytearray) -> Steps[None]:
    if any(dim < 0 for dim in tensor.shape):
        raise InvalidRequestError(f"input {tensor.name!r} has shape {list(tensor.shape)}; no dimension may be negative")
    data = bytes(tensor.data)
    text = Text(data, 0, len(data)) if outline is None else outline.list_of(data)
    yield from add_elements(tensor.name, tensor.datatype, tensor.shape, text, payload)
