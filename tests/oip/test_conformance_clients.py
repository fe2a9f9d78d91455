"""Triton's asynchronous clients, over HTTP and gRPC, and how much one answer tells over each of the three protocols."""

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from clockwork.arrays import dtype_of
from clockwork.client import AsyncClient
from oip.conformance import Server

TRITON = {"http": triton_http, "grpc": triton_grpc}
ARRAYS: dict[str, Any] = {
    "FP16": np.array([[0.5, -1, 65504]], np.float16),
    "BF16": np.array([[0.5, -1, 4]], dtype_of("BF16")),
    "FP32": np.array([[0.5, -1, 2.0**100]], np.float32),
    "BYTES": np.array([[b"", b"a", "é".encode()]], np.object_),
    "BOOL": np.array([[True, False, True]]),
}


def with_client(server: Server, protocol: str, ask: Any) -> Any:
    async def run() -> Any:
        async with TRITON[protocol].InferenceServerClient(getattr(server, protocol)) as client:
            return await ask(TRITON[protocol], client)

    return asyncio.run(run())


def inputs(triton: Any, array: Any, datatype: str = "FP32", name: str = "x") -> list[Any]:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return [made]


@pytest.mark.parametrize("protocol", TRITON)
@pytest.mark.parametrize("datatype", ARRAYS)
def test_arrays_come_back_as_they_went(server: Server, protocol: str, datatype: str) -> None:
    def ask(triton: Any, client: Any) -> Any:
        return client.infer(datatype, inputs(triton, ARRAYS[datatype], datatype), request_id="7", priority=1)

    answer = with_client(server, protocol, ask).as_numpy("y")
    np.testing.assert_array_equal(answer, ARRAYS[datatype])


@pytest.mark.parametrize("protocol", TRITON)
def test_many_requests_at_a_time(server: Server, protocol: str) -> None:
    async def ask(triton: Any, client: Any) -> Any:
        arrays = [np.full((1, 3), number, np.float32) for number in range(50)]
        return await asyncio.gather(*(client.infer("FP32", inputs(triton, array)) for array in arrays))

    answers = with_client(server, protocol, ask)
    assert [answer.as_numpy("y")[0, 0] for answer in answers] == list(range(50))


@pytest.mark.parametrize("protocol", TRITON)
def test_what_is_wrong_is_an_exception_with_a_status(server: Server, protocol: str) -> None:
    def ask(triton: Any, client: Any) -> Any:
        return client.infer("nobody", inputs(triton, ARRAYS["FP32"]))

    with pytest.raises(InferenceServerException, match="no model 'nobody'") as caught:
        with_client(server, protocol, ask)
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize("protocol", TRITON)
@pytest.mark.parametrize(
    "method",
    ["get_trace_settings", "get_log_settings", "get_system_shared_memory_status", "unregister_cuda_shared_memory"],
)
def test_what_only_triton_has_is_an_exception_that_says_so(server: Server, protocol: str, method: str) -> None:
    def ask(triton: Any, client: Any) -> Any:
        return getattr(client, method)()

    with pytest.raises(InferenceServerException, match=r"not supported|--log-level"):
        with_client(server, protocol, ask)


def test_an_answer_tells_the_same_over_all_three_protocols(server: Server) -> None:
    async def native() -> Any:
        async with AsyncClient(server.native) as client:
            return await client.infer("FP32", {"x": ARRAYS["FP32"]}, slo=10.0)

    def ask(triton: Any, client: Any) -> Any:
        return client.infer("FP32", inputs(triton, ARRAYS["FP32"]), parameters={"slo_ms": 10_000})

    told = with_client(server, "http", ask).get_response()["parameters"]
    typed = with_client(server, "grpc", ask).get_response().parameters
    over_grpc = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in typed.items()}
    names = {"predicted_ms", "queue_ms", "load_ms", "exec_ms", "total_ms", "batch_size", "cold_start"}
    for said in (told, over_grpc):
        assert set(said) == names
        assert 0 < said["exec_ms"] <= said["total_ms"]
        assert said["load_ms"] <= said["queue_ms"] <= said["total_ms"]
        assert (said["batch_size"], type(said["cold_start"])) == (1, bool)
    result = asyncio.run(native())
    timing = result.timing
    assert result.predicted is not None
    assert 0 < timing.exec <= timing.total
    assert timing.load <= timing.queue <= timing.total
    assert (timing.batch_size, type(timing.cold_start)) == (1, bool)
