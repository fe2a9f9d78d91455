"""Triton's own client against ``clockwork serve``: datatypes in JSON and binary, compression, metadata."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_graphs
from cli.processes import save_dense, serve

KINDS: dict[str, tuple[int, Any]] = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BYTES": (TensorProto.STRING, np.object_),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("models")
    paths = [save_dense(root / "dense.onnx")]
    for name, (kind, _) in KINDS.items():
        paths.append(onnx_graphs.saved(onnx_graphs.echo(kind), root / f"{name}.onnx"))
    two = onnx_graphs.model(
        [onnx_graphs.node("Add", "a b", "sum"), onnx_graphs.node("Sub", "a b", "difference")],
        [onnx_graphs.value("a", ["N", 2]), onnx_graphs.value("b", ["N", 2])],
        [onnx_graphs.value("sum", ["N", 2]), onnx_graphs.value("difference", ["N", 2])],
    )
    onnx.save(two, root / "two.onnx")
    with serve(*map(str, [*paths, root / "two.onnx"]), "--http=127.0.0.1:0") as process:
        found = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        process.address()
        yield found


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    from tritonclient.http import InferenceServerClient

    with InferenceServerClient(address) as client:
        yield client


def tensor(name: str, datatype: str, array: Any, binary: bool) -> Any:
    from tritonclient.http import InferInput

    tensor_input = InferInput(name, list(array.shape), datatype)
    tensor_input.set_data_from_numpy(array, binary_data=binary)
    return tensor_input


WAYS = [  # half precision has no JSON form
    (datatype, binary_in, binary_out)
    for datatype in KINDS
    for binary_in in (True, False)
    for binary_out in (True, False)
    if datatype != "FP16" or (binary_in and binary_out)
]


@pytest.mark.parametrize(("datatype", "binary_in", "binary_out"), WAYS)
def test_every_datatype_is_returned_unchanged(client: Any, datatype: str, binary_in: bool, binary_out: bool) -> None:
    from tritonclient.http import InferRequestedOutput

    if datatype == "BYTES":
        array = np.array([[b"", b"a", "\u00e9".encode()]], np.object_)
    else:
        array = np.array([[0, 1, 3]]).astype(KINDS[datatype][1])
    output = InferRequestedOutput("y", binary_data=binary_out)
    result = client.infer(
        datatype, [tensor("x", datatype, array, binary_in)], outputs=[output], request_id="r1", model_version="1"
    )
    answer = result.as_numpy("y")
    if datatype == "BYTES" and not binary_out:
        answer = np.array(
            [[element.encode() if isinstance(element, str) else element for element in answer[0]]], np.object_
        )
    np.testing.assert_array_equal(answer, array)
    response = result.get_response()
    assert response["id"] == "r1"
    assert {"queue_ms", "exec_ms", "total_ms", "batch_size", "cold_start"} <= set(response["parameters"])


def test_inputs_and_outputs_may_be_mixed(client: Any) -> None:
    from tritonclient.http import InferRequestedOutput

    a, b = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    outputs = [InferRequestedOutput("difference", binary_data=False), InferRequestedOutput("sum", binary_data=True)]
    result = client.infer("two", [tensor("a", "FP32", a, False), tensor("b", "FP32", b, True)], outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    result = client.infer("two", [tensor("b", "FP32", b, True), tensor("a", "FP32", a, True)], outputs=outputs[:1])
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    assert result.as_numpy("sum") is None


def test_classes(client: Any) -> None:
    from tritonclient.http import InferRequestedOutput

    array = np.array([[1, 7, 3]], np.float32)
    output = InferRequestedOutput("y", class_count=2)
    result = client.infer("FP32", [tensor("x", "FP32", array, True)], outputs=[output])
    assert result.as_numpy("y").tolist() == [[b"7.000000:1", b"3.000000:2"]]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_may_be_compressed(client: Any, coding: str) -> None:
    array = np.tile(np.array([[1, 7, 3]], np.float32), (2, 1))
    result = client.infer(
        "FP32",
        [tensor("x", "FP32", array, True)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_every_query_of_the_asyncio_client_is_understood(address: str) -> None:
    from tritonclient.http.aio import InferenceServerClient

    async def test() -> None:
        async with InferenceServerClient(address) as client:
            assert (await client.get_server_metadata())["name"] == "clockwork"
            assert (await client.get_model_metadata("two"))["name"] == "two"
            assert (await client.get_model_config("two"))["name"] == "two"
            assert len((await client.get_inference_statistics())["model_stats"]) == len(KINDS) + 2
            assert len(await client.get_model_repository_index()) == len(KINDS) + 2
            assert not await client.is_model_ready("two", "7")
            pair = [tensor(name, "FP32", np.ones((1, 2), np.float32), binary=True) for name in "ab"]
            long_id = "x" * 300  # the response is compressed
            assert ((await client.infer("two", pair, request_id=long_id)).as_numpy("sum") == 2).all()

    asyncio.run(test())


def test_a_deadline_that_cannot_be_met_is_refused(client: Any) -> None:
    from tritonclient.utils import InferenceServerException

    array = np.zeros((1, 32), np.float32)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("dense", [tensor("x", "FP32", array, True)], timeout=1)
    assert caught.value.status() in ("503", "504")
    assert "deadline" in caught.value.message()


def test_metadata_of_the_server_and_its_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("dense")
    assert client.is_model_ready("dense", "1")
    assert not client.is_model_ready("dense", "2")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("dense")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 32]}]
    config = client.get_model_config("dense")
    assert config["max_batch_size"] == 2
    (read,) = config["input"]
    assert (read["name"], read["data_type"], read["dims"], read["optional"]) == ("x", "TYPE_FP32", [32], False)
    assert client.get_model_config("BYTES")["input"][0]["data_type"] == "TYPE_STRING"
    index = client.get_model_repository_index()
    assert [entry["name"] for entry in index] == sorted([*KINDS, "dense", "two"])
    assert {entry["state"] for entry in index} == {"READY"}


def test_requests_are_counted(client: Any) -> None:
    def counts() -> tuple[int, int]:
        (stats,) = client.get_inference_statistics("dense")["model_stats"]
        inference = stats["inference_stats"]
        assert inference["success"]["count"] == stats["inference_count"] == inference["compute_infer"]["count"]
        assert (inference["success"]["ns"] > inference["compute_infer"]["ns"]) or not stats["inference_count"]
        return stats["inference_count"], stats["execution_count"]

    requests, executions = counts()
    for _ in range(3):
        client.infer("dense", [tensor("x", "FP32", np.zeros((1, 32), np.float32), True)])
    assert counts() == (requests + 3, executions + 3)
    assert len(client.get_inference_statistics()["model_stats"]) == len(KINDS) + 2
