"""``ModelInferRequest`` into `InferRequest`, and `InferResponse` into ``ModelInferResponse``.

No clock and no I/O. Raw data is not looked at, nor copied if there is but one tensor.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.contents import add_contents
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, TensorSpec
from clockwork.oip.answer import told
from clockwork.oip.contract import check_priority, check_supported, slo_of
from clockwork.oip.metadata import VERSION
from clockwork.steps import Steps
from clockwork.units import MIB, Bytes, Nanos
from clockwork.wire.frame import MAX_FRAME_BYTES

MAX_PAYLOAD_BYTES: Final[Bytes] = MAX_FRAME_BYTES - MIB
"""Tensors of one request: they go to a worker in one frame, with its header."""

MAX_PARAMETERS: Final = 1024
"""Parameters of one request, those of its inputs and outputs included."""

_CHOICES: Final = {float: "double_param", int: "int64_param", bool: "bool_param"}
"""Which field of ``InferParameter`` carries what `told` tells."""

_REFUSED_PARAMETERS: Final = ("shared_memory_region", "classification")
"""What would change the answer, and Clockwork does not have. Other parameters that it does not know are hints."""


def request_of(message: pb.ModelInferRequest, id: int, remaining: Nanos | None) -> InferRequest:
    """The request; ``remaining`` is the time that the call has left.

    Typed contents are not looked at, and have no bytes in the specs: `with_payload` decodes them.

    Raises:
        InvalidRequestError: the message contradicts itself, is too large, or asks for what there is not.
    """
    if len(message.inputs) > MAX_TENSORS or len(message.outputs) > MAX_TENSORS:
        raise InvalidRequestError(
            f"{len(message.inputs)} inputs and {len(message.outputs)} outputs; at most {MAX_TENSORS} are accepted"
        )
    tensors = (*message.inputs, *message.outputs)
    count = len(message.parameters) + sum(len(tensor.parameters) for tensor in tensors)
    if count > MAX_PARAMETERS:
        raise InvalidRequestError(f"{count} parameters; at most {MAX_PARAMETERS} are accepted")
    parameters = _parameters(message.parameters) if message.parameters else {}
    for tensor in tensors:
        if tensor.parameters:
            _parameters(tensor.parameters)
    try:
        slo = slo_of(parameters, remaining)
        check_priority(parameters)
        check_supported(parameters)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from None
    specs = _raw_specs(message) if message.raw_input_contents else _typed_specs(message)
    outputs = tuple(output.name for output in message.outputs)
    return InferRequest(id, message.model_name, specs, slo, None, outputs)


def with_payload(message: pb.ModelInferRequest, request: InferRequest) -> Steps[tuple[InferRequest, Any]]:
    """The request with the sizes of its inputs, and their payload.

    Raises:
        InvalidRequestError: the inputs are too large, or typed contents are not those of their specs.
    """
    contents: Sequence[bytes] = message.raw_input_contents
    payload: Any = bytearray()
    if contents:
        payload = contents[0] if len(contents) == 1 else b"".join(contents)
    else:
        specs = []
        for tensor, spec in zip(message.inputs, request.inputs, strict=True):
            before = len(payload)
            yield from add_contents(spec.name, spec.datatype, spec.shape, tensor.contents, payload)
            specs.append(TensorSpec(spec.name, spec.datatype, spec.shape, len(payload) - before))
        request = replace(request, inputs=tuple(specs))
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidRequestError(f"the inputs take {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are accepted")
    return request, payload


def response_of(message: pb.ModelInferRequest, response: InferResponse, payload: Any) -> pb.ModelInferResponse:
    """What a request that succeeded is answered with."""
    made = pb.ModelInferResponse(model_name=message.model_name, model_version=VERSION, id=message.id)
    for name, value in told(response).items():
        setattr(made.parameters[name], _CHOICES[type(value)], value)
    view, at = memoryview(b"" if payload is None else payload), 0
    for output in response.outputs:
        made.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        made.raw_output_contents.append(bytes(view[at : at + output.nbytes]))
        at += output.nbytes
    return made


def _parameters(sent: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    made = {key: getattr(value, value.WhichOneof("parameter_choice") or "", None) for key, value in sent.items()}
    for name in _REFUSED_PARAMETERS:
        if made.get(name):
            raise InvalidRequestError(f"the parameter {name} is not supported; Clockwork has nothing like it")
    return made


def _raw_specs(message: pb.ModelInferRequest) -> tuple[TensorSpec, ...]:
    contents: Sequence[bytes] = message.raw_input_contents
    if len(contents) != len(message.inputs):
        raise InvalidRequestError(
            f"{len(message.inputs)} inputs came with {len(contents)} raw_input_contents; each must have its own"
        )
    specs = []
    for tensor, data in zip(message.inputs, contents, strict=True):
        if tensor.HasField("contents"):
            raise InvalidRequestError(
                f"tensor {tensor.name!r} has contents beside raw_input_contents; send one of them"
            )
        specs.append(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape), len(data)))
    return tuple(specs)


def _typed_specs(message: pb.ModelInferRequest) -> tuple[TensorSpec, ...]:
    specs = []
    for tensor in message.inputs:
        shape = tuple(tensor.shape)
        if len(shape) > MAX_RANK or any(dim < 0 for dim in shape):
            raise InvalidRequestError(f"tensor {tensor.name!r} has the shape {list(shape)[: MAX_RANK + 1]}")
        specs.append(TensorSpec(tensor.name, tensor.datatype, shape, 0))
    return tuple(specs)
