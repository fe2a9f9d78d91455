"""Converts ``ModelInferRequest`` to `InferRequest`, and `InferResponse` to ``ModelInferResponse``.

This module uses no clock and no I/O. Raw tensors are copied at most once, into memory that a worker can read. Long work
is divided into steps, so that the event loop can do other work between two steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.contents import add_contents
from clockwork.grpc_frontend.raw_contents import MIN_SPLIT_BYTES, split, with_raw_outputs
from clockwork.grpc_frontend.response_parameters import encoded_parameters
from clockwork.messages.explanation import GRPC_DEADLINE
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, TensorSpec
from clockwork.oip.parameters import requested_slo
from clockwork.steps import Steps
from clockwork.units import MIB, Bytes, Nanos
from clockwork.wire.frame import MAX_FRAME_BYTES, Allocate, uninitialised

NO_PARAMETERS: Final[Mapping[str, Any]] = {}

MAX_PAYLOAD_BYTES: Final[Bytes] = MAX_FRAME_BYTES - MIB
"""Largest total size of a request's tensors, in bytes. One frame to a worker must contain the tensors and a header."""

MAX_COPIED: Final[Bytes] = 1 * MIB
"""Number of bytes that are copied in one step."""

MAX_PARAMETERS: Final = 1024
"""Largest number of parameters of a request, including the parameters of its inputs and outputs."""

CLASSIFICATION: Final = "classification"
"""Parameter of an output. The value is the number of classes that the response contains in place of the output's
elements."""

_REFUSED_PARAMETERS: Final = {"shared_memory_region": "send the data"}
"""Parameters that are refused because Clockwork does not support them, each with an alternative for the error message.

Such parameters would change the response. Unknown parameters that are not in this table are ignored.
"""


def parse(data: bytes | memoryview) -> tuple[pb.ModelInferRequest, Sequence[Any]]:
    """Decode a ModelInferRequest. Return the message, and its raw tensors separately.

    The returned message itself may lack the raw tensors.

    Raises:
        DecodeError: the bytes are not a ModelInferRequest.
    """
    parts = split(data) if len(data) >= MIN_SPLIT_BYTES else None
    if parts is not None:
        return pb.ModelInferRequest.FromString(parts.rest), parts.raw
    message = pb.ModelInferRequest.FromString(data)
    return message, message.raw_input_contents


def request_of(
    message: pb.ModelInferRequest,
    raw: Sequence[Any],
    id: int,
    limit: Nanos | None,
    name: str = "",
    *,
    ignore_timeout: bool = False,
) -> InferRequest:
    """Convert a message to an `InferRequest`.

    Elements in typed contents (not raw bytes) are decoded later, by `with_payload`. Until then, the specs of such
    inputs have a size of 0 bytes.

    Args:
        message: the message from `parse`.
        raw: the message's raw tensors.
        id: the request's id.
        limit: time from the request's arrival to the deadline of its call; None: the call has no deadline.
        name: the id under which the request is recorded.
        ignore_timeout: whether to ignore the request parameter ``timeout``.

    Raises:
        InvalidRequestError: the message contradicts itself or requests an unsupported feature.
    """
    if len(message.inputs) > MAX_TENSORS or len(message.outputs) > MAX_TENSORS:
        raise InvalidRequestError(
            f"request has {len(message.inputs)} inputs and {len(message.outputs)} outputs; "
            f"at most {MAX_TENSORS} of each are accepted"
        )
    tensors = (*message.inputs, *message.outputs)
    count = len(message.parameters) + sum(len(tensor.parameters) for tensor in tensors)
    if count > MAX_PARAMETERS:
        raise InvalidRequestError(f"request has {count} parameters; at most {MAX_PARAMETERS} are accepted")
    slo, source = None, ""
    if message.parameters:
        slo, source = requested_slo(_checked_parameters(message.parameters), ignore_timeout=ignore_timeout)
    for tensor in tensors:
        if tensor.parameters:
            _checked_parameters(tensor.parameters)
    if limit is not None and (slo is None or limit < slo):
        slo, source = limit, GRPC_DEADLINE
    specs = _raw_specs(message, raw) if raw else _typed_specs(message)
    outputs = tuple(output.name for output in message.outputs)
    return InferRequest(
        id=id,
        model=message.model_name,
        inputs=specs,
        slo=slo,
        outputs=outputs,
        version=message.model_version,
        request_id=name,
        slo_source=source,
    )


def with_payload(
    message: pb.ModelInferRequest, raw: Sequence[Any], request: InferRequest, allocate: Allocate | None = None
) -> Steps[tuple[InferRequest, Any]]:
    """Return the request with the final sizes of its inputs, and the payload that contains the inputs.

    Args:
        message: the message from `parse`.
        raw: the message's raw tensors.
        request: the request from `request_of`.
        allocate: returns memory that a worker can read. Large tensors are copied into this memory.

    Raises:
        InvalidRequestError: the inputs are too large, or typed contents do not match their specs.
    """
    if raw:
        return request, (yield from _together(raw, allocate))
    typed = bytearray()
    specs = []
    for tensor, spec in zip(message.inputs, request.inputs, strict=True):
        before = len(typed)
        yield from add_contents(spec.name, spec.datatype, spec.shape, tensor.contents, typed)
        specs.append(TensorSpec(spec.name, spec.datatype, spec.shape, len(typed) - before))
    payload = yield from _together((typed,), allocate)
    return replace(request, inputs=tuple(specs)), payload


def response_of(
    message: pb.ModelInferRequest,
    response: InferResponse,
    payload: Any,
    more: Mapping[str, bool] = NO_PARAMETERS,
) -> bytes:
    """Encode the ModelInferResponse that answers a successful request.

    ``more`` contains additional parameters for the response.
    """
    reply = pb.ModelInferResponse(
        model_name=message.model_name, model_version=response.version, id=message.id or response.request_id
    )
    for name, value in more.items():
        reply.parameters[name].bool_param = value
    view, at, tensors = memoryview(b"" if payload is None else payload), 0, []
    for output in response.outputs:
        reply.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        tensors.append(view[at : at + output.nbytes])
        at += output.nbytes
    return with_raw_outputs(reply.SerializeToString() + encoded_parameters(response), tensors)


def requested_classes(message: pb.ModelInferRequest) -> dict[str, int]:
    """Return the number of requested classes for each output that has the parameter ``classification``.

    Raises:
        InvalidRequestError: a number of classes is not an integer.
    """
    classes: dict[str, int] = {}
    for output in message.outputs:
        if CLASSIFICATION in output.parameters:
            count = parameter_values(output.parameters)[CLASSIFICATION]
            if type(count) is not int:
                raise InvalidRequestError(f"classification is {count!r}; it must be an integer")
            classes[output.name] = count
    return classes


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each ``InferParameter`` or ``ModelRepositoryParameter``, or None if it has no value."""
    return {key: getattr(value, value.WhichOneof("parameter_choice") or "", None) for key, value in parameters.items()}


def _checked_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    values = parameter_values(parameters)
    for name, alternative in _REFUSED_PARAMETERS.items():
        if values.get(name):
            raise InvalidRequestError(f"parameter {name} is not supported over gRPC; {alternative}")
    return values


def _raw_specs(message: pb.ModelInferRequest, raw: Sequence[Any]) -> tuple[TensorSpec, ...]:
    if len(raw) != len(message.inputs):
        raise InvalidRequestError(
            f"request has {len(message.inputs)} inputs and {len(raw)} raw_input_contents; send one for each input"
        )
    specs = []
    for tensor, data in zip(message.inputs, raw, strict=True):
        if tensor.HasField("contents"):
            raise InvalidRequestError(f"input {tensor.name!r} has contents and raw_input_contents; send one of them")
        specs.append(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape), len(data)))
    return tuple(specs)


def _typed_specs(message: pb.ModelInferRequest) -> tuple[TensorSpec, ...]:
    specs = []
    for tensor in message.inputs:
        shape = tuple(tensor.shape)
        if len(shape) > MAX_RANK or any(dim < 0 for dim in shape):
            shown = list(shape)[: MAX_RANK + 1]
            raise InvalidRequestError(
                f"input {tensor.name!r} has shape {shown}; at most {MAX_RANK} dimensions, none negative, are accepted"
            )
        specs.append(TensorSpec(tensor.name, tensor.datatype, shape, 0))
    return tuple(specs)


def _is_allocated(tensor: Any) -> bool:
    """Return whether a tensor is a view of memory that `Incoming` has allocated for its message."""
    return isinstance(tensor, memoryview) and not isinstance(tensor.obj, bytes)


def _together(tensors: Sequence[Any], allocate: Allocate | None) -> Steps[Any]:
    """Join the bytes of the tensors into one payload, in steps."""
    nbytes = sum(map(len, tensors))
    if nbytes > MAX_PAYLOAD_BYTES:
        raise InvalidRequestError(f"inputs have {nbytes} bytes; at most {MAX_PAYLOAD_BYTES} are accepted")
    if len(tensors) == 1 and (allocate is None or nbytes < MIN_SPLIT_BYTES or _is_allocated(tensors[0])):
        return tensors[0]
    if nbytes < MIN_SPLIT_BYTES:
        return b"".join(tensors)
    memory = memoryview((allocate or uninitialised)(nbytes).data)
    at = 0
    for data in tensors:
        view = memoryview(data)
        for begin in range(0, len(view), MAX_COPIED):
            if at:
                yield
            piece = view[begin : begin + MAX_COPIED]
            memory[at : at + len(piece)] = piece
            at += len(piece)
    return memory
