"""Triton's asynchronous clients over HTTP and gRPC, and the timing in responses of all three protocols."""

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
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return [tensor]


@pytest.mark.parametrize("protocol", TRITON)
@pytest.mark.parametrize("datatype", ARRAYS)
def test_arrays_are_returned_unchanged(server: Server, protocol: str, datatype: str) -> None:
    def ask(triton: Any, client: Any) -> Any:
        return client.infer(datatype, inputs(triton, ARRAYS[datatype], datatype), request_id="7", priority=1)

    answer = with_client(server, protocol, ask).as_numpy("y")
    np.testing.assert_array_equal(answer, ARRAYS[datatype])


@pytest.mark.parametrize("protocol", TRITON)
def test_concurrent_requests(server: Server, protocol: str) -> None:
    async def ask(triton: Any, client: Any) -> Any:
        arrays = [np.full((1, 3), number, np.float32) for number in range(50)]
        return await asyncio.gather(*(client.infer("FP32", inputs(triton, array)) for array in arrays))

    answers = with_client(server, protocol, ask)
    assert [answer.as_numpy("y")[0, 0] for answer in answers] == list(range(50))


@pytest.mark.parametrize("protocol", TRITON)
def test_a_wrong_request_raises_an_exception_with_a_status(server: Server, protocol: str) -> None:
    def ask(triton: Any, client: Any) -> Any:
        return client.infer("nobody", inputs(triton, ARRAYS["FP32"]))

    with pytest.raises(InferenceServerException, match="model 'nobody' is unknown") as caught:
        with_client(server, protocol, ask)
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize("protocol", TRITON)
@pytest.mark.parametrize(
    "method",
    ["get_trace_settings", "get_system_shared_memory_status", "unregister_cuda_shared_memory"],
)
def test_unsupported_methods_raise_an_exception(server: Server, protocol: str, method: str) -> None:
    def ask(triton: Any, client: Any) -> Any:
        return getattr(client, method)()

    with pytest.raises(InferenceServerException, match="not supported"):
        with_client(server, protocol, ask)


@pytest.mark.parametrize("protocol", TRITON)
def test_log_settings_are_read_and_changed(server: Server, protocol: str) -> None:
    as_json = {} if protocol == "http" else {"as_json": True}

    async def ask(triton: Any, client: Any) -> list[Any]:
        first = await client.get_log_settings(**as_json)
        changed = await client.update_log_settings({"log_info": False, "log_verbose_level": 2}, **as_json)
        after = await client.get_log_settings(**as_json)
        restored = await client.update_log_settings({"log_info": True, "log_verbose_level": 0}, **as_json)
        return [first, changed, after, restored]

    first, changed, after, restored = (named(settings) for settings in with_client(server, protocol, ask))
    assert first == {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    assert changed == after == first | {"log_info": False, "log_verbose_level": 2}
    assert restored == first


def named(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the value of each setting. In JSON that was made from a message, each value is in an object."""
    if "settings" not in settings:
        return settings
    return {name: next(iter(value.values())) for name, value in settings["settings"].items()}


@pytest.mark.parametrize("protocol", TRITON)
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"log_file": "/tmp/log"}, "log_file is ''; it cannot be changed"),
        ({"log_format": "ISO8601"}, "log_format is 'default'; .* start the server with --log-format"),
        ({"log_warnings": True}, "log setting 'log_warnings' is unknown; expected one of: log_file, log_info"),
    ],
)
def test_a_log_setting_that_cannot_be_changed_is_an_error_and_changes_nothing(
    server: Server, protocol: str, settings: dict[str, Any], why: str
) -> None:
    async def ask(triton: Any, client: Any) -> Any:
        with pytest.raises(InferenceServerException, match=why) as caught:
            await client.update_log_settings({"log_info": False, **settings})
        assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
        return await client.get_log_settings(**({} if protocol == "http" else {"as_json": True}))

    assert named(with_client(server, protocol, ask))["log_info"]


def test_responses_of_all_three_protocols_have_the_same_timing(server: Server) -> None:
    async def native() -> Any:
        async with AsyncClient(server.native) as client:
            return await client.infer("FP32", {"x": ARRAYS["FP32"]}, slo=10.0)

    def ask(triton: Any, client: Any) -> Any:
        return client.infer("FP32", inputs(triton, ARRAYS["FP32"]), parameters={"slo_ms": 10_000})

    over_http = with_client(server, "http", ask).get_response()["parameters"]
    typed = with_client(server, "grpc", ask).get_response().parameters
    over_grpc = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in typed.items()}
    names = {"predicted_ms", "queue_ms", "load_ms", "exec_ms", "total_ms", "batch_size", "cold_start"}
    in_us = {name.removesuffix("_ms") + "_us": name for name in names if name.endswith("_ms")}
    assert {name: over_grpc.pop(name) for name in in_us} == {
        us: round(over_grpc[in_ms] * 1000) for us, in_ms in in_us.items()
    }
    for parameters in (over_http, over_grpc):
        assert set(parameters) == names
        assert 0 < parameters["exec_ms"] <= parameters["total_ms"]
        assert parameters["load_ms"] <= parameters["queue_ms"] <= parameters["total_ms"]
        assert (parameters["batch_size"], type(parameters["cold_start"])) == (1, bool)
    result = asyncio.run(native())
    timing = result.timing
    assert result.predicted is not None
    assert 0 < timing.exec <= timing.total
    assert timing.load <= timing.queue <= timing.total
    assert (timing.batch_size, type(timing.cold_start)) == (1, bool)
