"""Conversion of ``ModelInferRequest`` to `InferRequest`, and the field numbers of the messages."""

from typing import Any

import pytest
import tritonclient.grpc.model_config_pb2 as triton_config
import tritonclient.grpc.service_pb2 as triton
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from clockwork.errors import InvalidRequestError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.infer import MAX_PARAMETERS, MAX_PAYLOAD_BYTES, request_of, response_of, with_payload
from clockwork.grpc_frontend.response_parameters import encoded_parameters
from clockwork.messages.requests import InferRequest, InferResponse, RequestTiming
from clockwork.messages.status import Status
from clockwork.messages.tensors import MAX_TENSORS, TensorSpec
from clockwork.oip.response import response_parameters
from clockwork.steps import at_once
from clockwork.units import MILLISECOND


def message_with(**changes: Any) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
    fields = {"model_name": "m", "inputs": [tensor], "raw_input_contents": [b"12345678"]} | changes
    return pb.ModelInferRequest(**fields)


def request_from(message: pb.ModelInferRequest, id: int = 1, remaining: int | None = None) -> InferRequest:
    return request_of(message, message.raw_input_contents, id, remaining)


def parameter(**value: Any) -> pb.InferParameter:
    return pb.InferParameter(**value)


def with_its_payload(message: pb.ModelInferRequest, id: int = 1) -> tuple[InferRequest, Any]:
    return at_once(with_payload(message, message.raw_input_contents, request_from(message, id)))


def test_names_and_numbers_are_those_of_tritons_protocol() -> None:
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        theirs = getattr(triton if hasattr(triton, name) else triton_config, name).DESCRIPTOR
        for field in message.fields:
            found = theirs.fields_by_name[field.name]
            assert (found.number, found.type) == (field.number, field.type), f"{name}.{field.name}"
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    methods = triton.DESCRIPTOR.services_by_name[service.name].methods_by_name
    for method in service.methods:
        found = methods[method.name]
        assert found.input_type.full_name == method.input_type.full_name
        assert found.output_type.full_name == method.output_type.full_name
        assert found.client_streaming == method.client_streaming


def test_raw_data_of_one_tensor_is_not_copied() -> None:
    message = message_with()
    request, payload = with_its_payload(message, 5)
    assert request == InferRequest(5, "m", (TensorSpec("x", "FP32", (1, 2), 8),))
    assert payload == b"12345678"


def test_tensors_are_joined_in_order() -> None:
    tensors = [pb.ModelInferRequest.InferInputTensor(name=name, datatype="UINT8", shape=[2]) for name in "ab"]
    request, payload = with_its_payload(message_with(inputs=tensors, raw_input_contents=[b"12", b"34"]))
    assert [tensor.nbytes for tensor in request.inputs] == [2, 2]
    assert payload == b"1234"


@pytest.mark.parametrize(
    ("parameters", "remaining", "slo"),
    [
        ({}, None, None),
        ({}, 50 * MILLISECOND, 50 * MILLISECOND),
        ({"timeout": parameter(int64_param=20_000)}, 50 * MILLISECOND, 20 * MILLISECOND),
        ({"timeout": parameter(int64_param=20_000), "slo_ms": parameter(double_param=7.5)}, None, 7_500_000),
        ({"slo_ms": parameter(string_param="80")}, 50 * MILLISECOND, 50 * MILLISECOND),
        ({"timeout": parameter(int64_param=0)}, None, None),
    ],
)
def test_the_tightest_deadline_counts(parameters: Any, remaining: int | None, slo: int | None) -> None:
    assert request_from(message_with(parameters=parameters), remaining=remaining).slo == slo


TENSOR = pb.ModelInferRequest.InferInputTensor
WRONG = [
    (message_with(raw_input_contents=[b"1", b"2"]), "1 inputs and 2 raw_input_contents"),
    (message_with(inputs=[TENSOR(name="x", contents=pb.InferTensorContents())]), "has contents and raw_input_contents"),
    (message_with(raw_input_contents=[], inputs=[TENSOR(name="x", datatype="FP32", shape=[-1])]), r"has shape \[-1\]"),
    (message_with(inputs=[TENSOR(name="x")] * (MAX_TENSORS + 1)), "at most 256 of each are accepted"),
    (message_with(parameters={"slo_ms": parameter(string_param="soon")}), "slo_ms is 'soon'"),
    (
        message_with(parameters={str(i): parameter() for i in range(MAX_PARAMETERS + 1)}),
        "1025 parameters; at most",
    ),
    (message_with(parameters={"sequence_id": parameter(int64_param=1)}), "sequence_id is not supported"),
    (message_with(raw_input_contents=[b"0" * (MAX_PAYLOAD_BYTES + 1)]), "at most"),
]


@pytest.mark.parametrize(("message", "why"), WRONG, ids=[why for _, why in WRONG])
def test_an_inconsistent_message_is_refused(message: pb.ModelInferRequest, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        with_its_payload(message)


def success(rows: int, batch_size: int) -> InferResponse:
    timing = RequestTiming(5_000_000, 1_000_000, 2_000_000, batch_size, True)
    outputs = (TensorSpec("y", "FP32", (rows, 1), 4 * rows),)
    return InferResponse(1, Status.SUCCESS, "", outputs, timing, 4_000_000, version="1")


def test_a_response_has_its_timing_as_parameters() -> None:
    answer = response_of(message_with(id="seven"), success(1, 4), memoryview(b"abcd"))
    decoded = pb.ModelInferResponse.FromString(answer)
    assert (decoded.model_name, decoded.model_version, decoded.id) == ("m", "1", "seven")
    assert list(decoded.raw_output_contents) == [b"abcd"]
    found = {
        key: getattr(value, str(value.WhichOneof("parameter_choice"))) for key, value in decoded.parameters.items()
    }
    assert found == {
        "predicted_ms": 4.0,
        "queue_ms": 1.0,
        "load_ms": 0.0,
        "exec_ms": 2.0,
        "total_ms": 5.0,
        "predicted_us": 4000,
        "queue_us": 1000,
        "load_us": 0,
        "exec_us": 2000,
        "total_us": 5000,
        "batch_size": 4,
        "cold_start": True,
    }


def as_kserve_reads(answer: bytes) -> Any:
    """Decode a response with KServe's messages, whose InferParameter has a bool, an int64 and a string only."""
    file = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    (parameter_type,) = [message for message in file.message_type if message.name == "InferParameter"]
    kept = [field for field in parameter_type.field if field.number <= 3]
    assert [field.name for field in kept] == ["bool_param", "int64_param", "string_param"]
    del parameter_type.field[:]
    parameter_type.field.extend(kept)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("inference.ModelInferResponse")
    return message_factory.GetMessageClass(found).FromString(answer)


def test_a_client_with_kserves_messages_reads_all_times() -> None:
    decoded = as_kserve_reads(response_of(message_with(), success(1, 4), memoryview(b"abcd")))
    chosen = {key: value.WhichOneof("parameter_choice") for key, value in decoded.parameters.items()}
    empty = {key for key, choice in chosen.items() if choice is None}
    assert empty == {"predicted_ms", "queue_ms", "load_ms", "exec_ms", "total_ms"}
    found = {key: getattr(decoded.parameters[key], choice) for key, choice in chosen.items() if choice}
    assert found == {
        "predicted_us": 4000,
        "queue_us": 1000,
        "load_us": 0,
        "exec_us": 2000,
        "total_us": 5000,
        "batch_size": 4,
        "cold_start": True,
    }


@pytest.mark.parametrize("ns", [0, 1, 501, 127_000, 128_000, 16_384_000, 2**40, 2**62])
def test_the_parameters_are_encoded_as_protobuf_encodes_them(ns: int) -> None:
    response = InferResponse(1, Status.SUCCESS, "", (), RequestTiming(ns, ns, ns, 300, False, ns), ns)
    message = pb.ModelInferResponse()
    for name, value in response_parameters(response).items():
        kind = {float: "double_param", int: "int64_param", bool: "bool_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
        if name.endswith("_ms"):
            message.parameters[f"{name[:-3]}_us"].int64_param = round(value * 1000)
    assert pb.ModelInferResponse.FromString(encoded_parameters(response)) == message
