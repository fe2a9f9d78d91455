"""``clockwork serve --grpc`` with real models, called with tritonclient and with a stub."""

import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import onnx_graphs
from cli.processes import Process, clockwork, save_dense, serve
from clockwork.grpc_frontend.infer import MAX_PAYLOAD_BYTES
from clockwork.units import KIB, MIB

ECHOES = {
    "BOOL": (TensorProto.BOOL, "bool_contents", [True, False, True]),
    "UINT8": (TensorProto.UINT8, "uint_contents", [0, 1, 255]),
    "INT16": (TensorProto.INT16, "int_contents", [-32768, 0, 1]),
    "INT64": (TensorProto.INT64, "int64_contents", [-(2**63), 0, 1]),
    "UINT64": (TensorProto.UINT64, "uint64_contents", [0, 1, 2**64 - 1]),
    "FP16": (TensorProto.FLOAT16, "fp32_contents", [0.5, -1.0, 65504.0]),
    "FP32": (TensorProto.FLOAT, "fp32_contents", [0.5, -1.0, 2.0**100]),
    "FP64": (TensorProto.DOUBLE, "fp64_contents", [0.1, -1.0, 1e300]),
    "BYTES": (TensorProto.STRING, "bytes_contents", [b"", b"a", "café".encode()]),
}

SLOW_WIDTH = 64 * 64


def grpc_address(process: Process) -> str:
    return process.out.wait_for(r"^clockwork serves gRPC on (\S+)$")[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("models")
    files = [save_dense(directory / "dense.onnx")]
    files.append(onnx_graphs.saved(onnx_graphs.slow(), directory / "slow.onnx"))
    for datatype, (kind, _, _) in ECHOES.items():
        files.append(onnx_graphs.saved(onnx_graphs.echo(kind), directory / f"{datatype}.onnx"))
    with serve("--grpc=127.0.0.1:0", *map(str, files)) as process:
        process.address()
        yield grpc_address(process)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
        assert not process.problems()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def dense(rows: int = 1, width: int = 32) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", [rows, width], "FP32")
    tensor.set_data_from_numpy(np.ones((rows, width), np.float32))
    return [tensor]


def test_server_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "clockwork"
    assert [client.is_model_ready(name) for name in ("dense", "nobody")] == [True, False]


def test_model_metadata_and_configuration(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("dense")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("x", "FP32", [-1, 32])
    ]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs] == [
        ("y", "FP32", [-1, 5])
    ]
    config = client.get_model_config("dense").config
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (2, [32], [5])
    assert client.get_model_config("BYTES").config.input[0].data_type == 13


def test_the_index_has_every_model(client: triton.InferenceServerClient) -> None:
    models = client.get_model_repository_index().models
    assert [(model.name, model.state) for model in models] == [
        (name, "READY") for name in sorted([*ECHOES, "dense", "slow"])
    ]


@pytest.mark.parametrize("datatype", ECHOES)
def test_typed_contents_are_returned_unchanged(stub: Any, datatype: str) -> None:
    _, field, elements = ECHOES[datatype]
    contents = service_pb2.InferTensorContents(**{field: elements})
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype, shape=[1, 3], contents=contents
    )
    response = stub.ModelInfer(service_pb2.ModelInferRequest(model_name=datatype, inputs=[tensor]))
    assert triton.InferResult(response).as_numpy("y").tolist() == [elements]


@pytest.mark.parametrize("datatype", ECHOES)
def test_raw_contents_are_returned_unchanged(client: triton.InferenceServerClient, datatype: str) -> None:
    tensor = triton.InferInput("x", [1, 3], datatype)
    dtype = {"BYTES": np.object_, "BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
    tensor.set_data_from_numpy(np.array([ECHOES[datatype][2]], dtype.get(datatype, datatype.lower())))
    assert client.infer(datatype, [tensor]).as_numpy("y").tolist() == [ECHOES[datatype][2]]


def test_an_output_can_be_chosen(client: triton.InferenceServerClient) -> None:
    result = client.infer("dense", dense(2), outputs=[triton.InferRequestedOutput("y")])
    assert result.as_numpy("y").shape == (2, 5)


@pytest.mark.parametrize(
    ("call", "code", "why"),
    [
        ({"model_name": "nobody"}, "NOT_FOUND", "model 'nobody' is unknown"),
        ({"model_version": "9"}, "NOT_FOUND", "no version '9'"),
        ({"inputs": dense(1, 31)}, "INVALID_ARGUMENT", "dense takes x FP32"),
        ({"inputs": [triton.InferInput("z", [1, 32], "FP32")]}, "INVALID_ARGUMENT", "input 'z' is unknown"),
        ({"inputs": dense(9)}, "INVALID_ARGUMENT", "1 to 2 rows"),
        ({"inputs": []}, "INVALID_ARGUMENT", "input 'x' is missing"),
        ({"outputs": [triton.InferRequestedOutput("z")]}, "INVALID_ARGUMENT", "output 'z' is unknown"),
        ({"outputs": [triton.InferRequestedOutput("y", class_count=-1)]}, "INVALID_ARGUMENT", "classification is -1"),
        ({"parameters": {"slo_ms": 0}}, "INVALID_ARGUMENT", "slo_ms is 0"),
    ],
)
def test_a_wrong_request_gets_an_explanation(
    client: triton.InferenceServerClient, call: dict[str, Any], code: str, why: str
) -> None:
    with pytest.raises(InferenceServerException, match=why) as caught:
        client.infer(**{"model_name": "dense", "inputs": dense()} | call)
    assert caught.value.status() == f"StatusCode.{code}"


def test_a_wrong_datatype_is_an_error(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("x", [1, 32], "FP64")
    tensor.set_data_from_numpy(np.ones((1, 32)))
    with pytest.raises(InferenceServerException, match="FP64") as caught:
        client.infer("dense", [tensor])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_deadline_that_cannot_be_met_is_refused_with_a_prediction(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no device can meet this SLO") as caught:
        client.infer("slow", dense(1, SLOW_WIDTH), parameters={"slo_ms": 8})
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    trailer = dict(caught.value.__context__.trailing_metadata())
    assert trailer["clockwork-status-name"] == "CONTROLLER_COULD_NOT_START_IN_TIME"
    assert float(trailer["clockwork-predicted-ms"]) > 8
    assert "clockwork-retry-after-ms" not in trailer  # waiting does not make a device faster


def test_nothing_is_loaded_or_unloaded_while_serving(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="models are loaded at start-up only"):
        client.load_model("dense")
    with pytest.raises(InferenceServerException, match="models are fixed after start-up") as caught:
        client.unload_model("dense")
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_statistics_count_the_requests(client: triton.InferenceServerClient) -> None:
    def counted() -> Any:
        (found,) = client.get_inference_statistics("dense").model_stats
        return found

    before = counted()
    client.infer("dense", dense(2))
    after = counted()
    assert after.inference_count - before.inference_count == 2
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert len(client.get_inference_statistics().model_stats) == len(ECHOES) + 2
    with pytest.raises(InferenceServerException, match="model 'nobody' is unknown"):
        client.get_inference_statistics("nobody")


def test_a_stream_is_answered(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for i in range(20):
        client.async_stream_infer("dense", dense(), request_id=str(i))
    client.async_stream_infer("nobody", dense())
    got = [answers.get(timeout=60) for _ in range(21)]
    client.stop_stream()
    assert [result.get_response().id for result, _ in got[:20]] == [str(i) for i in range(20)]
    assert "model 'nobody' is unknown" in str(got[20][1])


def test_a_message_too_long_is_refused(stub: Any) -> None:
    """A message slightly too long gets a clear error; a much longer one is not read at all."""
    tensor = [service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 32])]
    for more, code in ((KIB, "INVALID_ARGUMENT"), (2 * MIB, "RESOURCE_EXHAUSTED")):
        raw = [bytes(MAX_PAYLOAD_BYTES + more)]
        request = service_pb2.ModelInferRequest(model_name="dense", inputs=tensor, raw_input_contents=raw)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code().name == code


def test_a_controller_serves_grpc_and_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    listen = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=none")
    with clockwork("controller", *listen, "--grpc=127.0.0.1:0") as first:
        taken = grpc_address(first)
        with triton.InferenceServerClient(taken) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
        with clockwork("controller", *listen, f"--grpc={taken}") as second:
            assert second.ended() == 1
            assert second.err.seen[-1].startswith(
                f"clockwork: cannot listen for gRPC on {taken}: Address already in use"
            )
        first.send(signal.SIGTERM)
        assert first.ended() == 0


def test_the_word_none_is_not_an_address() -> None:
    with clockwork(
        "controller", "--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=none", "--grpc=none"
    ) as process:
        process.err.wait_for("listening for clients")
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    assert not process.out.seen
