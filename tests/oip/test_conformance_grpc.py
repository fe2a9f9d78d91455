"""The Open Inference Protocol v2 over gRPC, rule by rule: each test is named after a rule of the protocol.

Sources: the comments in KServe's grpc_predict_v2.proto and in Triton's grpc_service.proto. The messages come from
Triton's file, which has fields that Clockwork's lacks.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from oip.conformance import ECHOES, Server

PACKED = b"\x00\x00\x80\x3f\x00\x00\x00\x40", b"\x00\x00\x20\x41\x00\x00\xf0\x41"  # (1, 2) and (10, 30)
SUM, DIFFERENCE = b"\x00\x00\x30\x41\x00\x00\x00\x42", b"\x00\x00\x10\xc1\x00\x00\xe0\xc1"


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, datatype: str = "FP32", shape: Any = (1, 2), **contents: Any) -> Any:
    message = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        message.contents.CopyFrom(pb.InferTensorContents(**contents))
    return message


A, B = tensor("a", fp32_contents=[1, 2]), tensor("b", fp32_contents=[10, 30])


def request(*inputs: Any, model: str = "two", **more: Any) -> Any:
    return pb.ModelInferRequest(model_name=model, inputs=inputs, **more)


def parameters(**values: Any) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: pb.InferParameter(**{kinds[type(value)]: value}) for name, value in values.items()}


def outputs(answer: Any) -> dict[str, bytes]:
    names = [output.name for output in answer.outputs]
    return dict(zip(names, answer.raw_output_contents, strict=True))


def refused(method: Any, message: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        method(message)
    assert caught.value.details()
    assert {"clockwork-status", "clockwork-status-name"} <= dict(caught.value.trailing_metadata()).keys()
    return caught.value.code()


# -------------------------------------------------------------------------------------------------- health, metadata


def test_the_server_is_live_and_ready_and_so_is_a_model_with_or_without_its_version(stub: Any) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="two")).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="two", version="1")).ready


def test_an_unknown_model_or_version_is_not_ready(stub: Any) -> None:
    assert not stub.ModelReady(pb.ModelReadyRequest(name="nobody")).ready
    assert not stub.ModelReady(pb.ModelReadyRequest(name="two", version="7")).ready


def test_server_metadata_has_name_version_and_extensions(stub: Any) -> None:
    metadata = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name
    assert metadata.version
    assert {"model_repository", "statistics", "model_configuration"} <= set(metadata.extensions)


@pytest.mark.parametrize("version", ["", "1"])
def test_model_metadata_has_names_datatypes_and_shapes_and_a_variable_dimension_is_minus_1(
    stub: Any, version: str
) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="dense", version=version))
    assert (metadata.name, list(metadata.versions)) == ("dense", ["1"])
    assert metadata.platform
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("x", "FP32", [-1, 32])
    ]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs] == [
        ("y", "FP32", [-1, 5])
    ]


def test_errors_are_indicated_by_the_status_of_the_call(stub: Any) -> None:
    code = grpc.StatusCode
    assert refused(stub.ModelMetadata, pb.ModelMetadataRequest(name="nobody")) == code.NOT_FOUND
    assert refused(stub.ModelMetadata, pb.ModelMetadataRequest(name="two", version="2")) == code.NOT_FOUND
    assert refused(stub.ModelConfig, pb.ModelConfigRequest(name="nobody")) == code.NOT_FOUND
    assert refused(stub.ModelStatistics, pb.ModelStatisticsRequest(name="nobody")) == code.NOT_FOUND
    assert refused(stub.ModelInfer, request(A, B, model="nobody")) == code.NOT_FOUND
    assert refused(stub.ModelInfer, request(A, B, model_version="2")) == code.NOT_FOUND
    load = pb.RepositoryModelLoadRequest(model_name="two")
    assert refused(stub.RepositoryModelLoad, load) == code.INVALID_ARGUMENT
    unload = pb.RepositoryModelUnloadRequest(model_name="two")
    assert refused(stub.RepositoryModelUnload, unload) == code.INVALID_ARGUMENT


# ---------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("version", ["", "1"])
def test_the_version_is_optional_and_version_and_id_are_returned(stub: Any, version: str) -> None:
    answer = stub.ModelInfer(request(A, B, model_version=version, id="a ü"))
    assert (answer.model_name, answer.model_version, answer.id) == ("two", "1", "a ü")
    assert stub.ModelInfer(request(A, B)).id, "the server chooses an id"


def test_if_outputs_are_not_specified_all_outputs_are_returned(stub: Any) -> None:
    assert outputs(stub.ModelInfer(request(A, B))) == {"sum": SUM, "difference": DIFFERENCE}


def test_only_the_outputs_that_are_requested_are_returned(stub: Any) -> None:
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name="difference")]
    answer = stub.ModelInfer(request(B, A, outputs=wanted))
    assert outputs(answer) == {"difference": DIFFERENCE}
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("difference", "FP32", [1, 2])


FIELDS: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False, True]),
    "UINT8": ("uint_contents", [0, 1, 255]),
    "UINT16": ("uint_contents", [0, 1, 65535]),
    "UINT32": ("uint_contents", [0, 1, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 1, 2**64 - 1]),
    "INT8": ("int_contents", [-128, 0, 127]),
    "INT16": ("int_contents", [-(2**15), 0, 1]),
    "INT32": ("int_contents", [-(2**31), 0, 1]),
    "INT64": ("int64_contents", [-(2**63), 0, 1]),
    "FP32": ("fp32_contents", [0.5, -1, 2.0**100]),
    "FP64": ("fp64_contents", [0.1, -1, 1e300]),
    "BYTES": ("bytes_contents", [b"", b"a", "é".encode()]),
}


@pytest.mark.parametrize("datatype", FIELDS)
def test_contents_are_in_the_field_of_their_datatype_in_row_major_order(stub: Any, datatype: str) -> None:
    field, elements = FIELDS[datatype]
    answer = stub.ModelInfer(request(tensor("x", datatype, (1, 3), **{field: elements}), model=datatype))
    assert outputs(answer) == {"y": ECHOES[datatype][1]}


@pytest.mark.parametrize("datatype", ECHOES)
def test_raw_contents_are_little_endian_row_major_without_padding(stub: Any, datatype: str) -> None:
    sent = ECHOES[datatype][1]
    answer = stub.ModelInfer(request(tensor("x", datatype, (1, 3)), model=datatype, raw_input_contents=[sent]))
    assert outputs(answer) == {"y": sent}
    assert answer.outputs[0].datatype == datatype


def test_raw_contents_are_in_the_order_of_the_inputs(stub: Any) -> None:
    answer = stub.ModelInfer(request(tensor("b"), tensor("a"), raw_input_contents=PACKED[::-1]))
    assert outputs(answer)["difference"] == DIFFERENCE


WRONG = {
    "raw contents beside contents": request(A, B, raw_input_contents=PACKED),
    "raw contents of one input only": request(tensor("a"), tensor("b"), raw_input_contents=PACKED[:1]),
    "more raw contents than inputs": request(tensor("a"), raw_input_contents=PACKED),
    "raw contents of another size": request(tensor("a"), tensor("b"), raw_input_contents=(PACKED[0], bytes(7))),
    "contents in the field of another datatype": request(A, tensor("b", fp64_contents=[10, 30])),
    "too few elements": request(A, tensor("b", fp32_contents=[10])),
    "no contents": request(A, tensor("b")),
    "an element that does not fit": request(tensor("x", "UINT8", (1, 3), uint_contents=[0, 1, 256]), model="UINT8"),
    "another datatype": request(A, tensor("b", "INT32", int_contents=[10, 30])),
    "another shape": request(A, tensor("b", shape=(2, 1), fp32_contents=[10, 30])),
    "a negative dimension": request(A, tensor("b", shape=(-1, 2), fp32_contents=[10, 30])),
    "a missing input": request(A),
    "an input twice": request(A, A),
    "an unknown input": request(A, B, tensor("c", fp32_contents=[1, 2])),
    "an unknown output": request(A, B, outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="c")]),
    "a negative timeout": request(A, B, parameters=parameters(timeout=-1)),
    "an slo of zero": request(A, B, parameters=parameters(slo_ms=0)),
    "a negative priority": request(A, B, parameters=parameters(priority=-1)),
    "a priority that is a string": request(A, B, parameters=parameters(priority="high")),
    "shared memory": request(A, B, parameters=parameters(shared_memory_region="r")),
    "a sequence": request(A, B, parameters=parameters(sequence_id=7)),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_inconsistent_request_is_an_invalid_argument(stub: Any, what: str) -> None:
    assert refused(stub.ModelInfer, WRONG[what]) == grpc.StatusCode.INVALID_ARGUMENT


def test_half_precision_may_be_typed_contents_as_an_extension(stub: Any) -> None:
    for datatype in ("FP16", "BF16"):
        typed = tensor("x", datatype, (1, 3), fp32_contents=[0.5, -1, 4])
        assert len(outputs(stub.ModelInfer(request(typed, model=datatype)))["y"]) == 6


def test_a_timeout_is_in_microseconds_and_0_means_none_and_a_priority_has_no_effect(stub: Any) -> None:
    for values in ({"timeout": 0}, {"timeout": 20_000_000}, {"priority": 0}, {"priority": 1}, {"slo_ms": "20000"}):
        assert stub.ModelInfer(request(A, B, parameters=parameters(**values))).outputs
    code = refused(stub.ModelInfer, request(A, B, parameters=parameters(timeout=1)))
    assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_stream_answers_each_request_once_in_order_with_errors_in_the_message(stub: Any) -> None:
    requests = [request(A, B, id="1"), request(A, model="nobody", id="2"), request(A, B, id="3")]
    answers = list(stub.ModelStreamInfer(iter(requests)))
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]


def test_every_response_of_a_stream_is_marked_final_on_request(stub: Any) -> None:
    """No model is decoupled, so each request has one response, which is the final one (Triton's decoupled API)."""
    flag = parameters(triton_enable_empty_final_response=True)
    plain, marked = stub.ModelStreamInfer(iter([request(A, B), request(A, B, parameters=flag)]))
    assert "triton_final_response" not in plain.infer_response.parameters
    assert marked.infer_response.parameters["triton_final_response"].bool_param


# -------------------------------------------------------------------------------------------------- other extensions


def test_statistics_are_cumulative_and_have_counts_and_nanoseconds(stub: Any) -> None:
    def counts() -> tuple[int, int, int]:
        (model,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="two")).model_stats
        return model.inference_count, model.inference_stats.success.count, model.inference_stats.success.ns

    before = counts()
    stub.ModelInfer(request(A, B))
    after = counts()
    assert after[:2] == (before[0] + 1, before[1] + 1)
    assert after[2] > before[2]
    assert {model.name for model in stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats} == {
        "dense",
        "two",
        *ECHOES,
    }


def test_the_repository_index_has_every_model_with_name_version_and_state(stub: Any) -> None:
    for ready in (False, True):
        models = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready)).models
        assert sorted(model.name for model in models) == sorted(["dense", "two", *ECHOES])
        assert {(model.version, model.state) for model in models} == {("1", "READY")}


def test_a_model_has_a_configuration_whose_dims_are_without_the_batch(stub: Any) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="dense")).config
    assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("dense", 2, [32])
    assert not config.model_transaction_policy.decoupled
