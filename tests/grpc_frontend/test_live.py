"""The gRPC server of a live controller with a scripted worker; tritonclient calls it on the same event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, ScriptedWorker, controller, run, serving
from clockwork.controller.config import ControlMode
from clockwork.controller.stage import Stage
from clockwork.errors import ServerError
from clockwork.grpc_frontend import health_pb2 as health
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost
from clockwork.messages.actions import Infer
from clockwork.messages.requests import StatusRequest, StatusResponse
from clockwork.units import MIB


def ones(rows: int = 1) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", [rows, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((rows, 4), np.float32))
    return [tensor]


async def until(host: ControllerHost, stage: Stage) -> None:
    while host.progress()[0] != stage.value:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)


async def until_nothing_is_outstanding(host: ControllerHost) -> None:
    while await outstanding(host):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)


async def outstanding(host: ControllerHost) -> int:
    client = host.local_client()
    response, _ = await client.ask(StatusRequest(client.next_id()))
    assert isinstance(response, StatusResponse)
    return response.server.outstanding


@asynccontextmanager
async def front_end(**settings: Any) -> AsyncIterator[tuple[ControllerHost, ScriptedWorker, Any]]:
    async with (
        serving(**settings) as (host, worker),
        serve_grpc(host, LOOPBACK) as server,
        triton.InferenceServerClient(str(server.address)) as client,
    ):
        await until(host, Stage.SERVING)
        yield host, worker, client


def held(action: Any) -> bool:
    """Hold back batches of 3 rows, which profiling does not use."""
    return isinstance(action, Infer) and any(share.batch_size == 3 for share in action.inputs)


def test_a_request_is_answered() -> None:
    async def test() -> None:
        async with front_end() as (_, _, client):
            result = await client.infer("m", ones(2), request_id="seven")
            assert result.as_numpy("y").tolist() == [[2.0] * 4] * 2
            assert result.get_response().id == "seven"
            assert "total_ms" in result.get_response().parameters

    run(test())


def test_concurrent_requests_are_answered() -> None:
    async def test() -> None:
        async with front_end() as (_, _, client):
            results = await asyncio.gather(*(client.infer("m", ones()) for _ in range(100)))
            assert all(result.as_numpy("y").shape == (1, 4) for result in results)

    run(test())


def test_a_cancelled_call_cancels_the_request() -> None:
    async def test() -> None:
        async with front_end(holds=held) as (host, worker, client):
            call = asyncio.ensure_future(client.infer("m", ones(3)))
            await worker.until(lambda: bool(worker.held))
            assert await outstanding(host) == 1
            call.cancel()
            await until_nothing_is_outstanding(host)

    run(test())


def test_the_deadline_of_the_call_is_the_deadline_of_the_request() -> None:
    async def test() -> None:
        async with front_end(holds=held) as (host, _, client):
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("m", ones(3), client_timeout=0.2)
            assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            await until_nothing_is_outstanding(host)

    run(test())


def test_a_timeout_in_microseconds_is_a_deadline() -> None:
    async def test() -> None:
        async with front_end(holds=held) as (_, _, client):
            with pytest.raises(InferenceServerException, match="the deadline passed") as caught:
                await client.infer("m", ones(3), timeout=50_000)
            assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            trailer = dict(caught.value.__context__.trailing_metadata())
            assert trailer["clockwork-status-name"] == "TIMEOUT"
            assert trailer["clockwork-status"] == "4"

    run(test())


def test_a_stream_answers_in_order_and_goes_on_after_an_error() -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for i in range(100):
            yield {"model_name": "nobody" if i == 50 else "m", "inputs": ones(), "request_id": str(i)}

    async def test() -> None:
        async with front_end() as (_, _, client):
            ids, errors = [], []
            async for result, error in client.stream_infer(requests()):
                if error is None:
                    ids.append(int(result.get_response().id))
                else:
                    errors.append(str(error))
            assert ids == [i for i in range(100) if i != 50]
            assert len(errors) == 1
            assert "model 'nobody' is unknown" in errors[0]

    run(test())


def test_a_cancelled_stream_cancels_its_requests() -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for i in range(100):
            yield {"model_name": "m", "inputs": ones(3), "request_id": str(i)}
        await asyncio.sleep(60)

    async def test() -> None:
        async with front_end(holds=held) as (host, worker, client):
            stream = client.stream_infer(requests())
            reading = asyncio.ensure_future(anext(stream))
            await worker.until(lambda: bool(worker.held))
            assert 0 < await outstanding(host) <= 64
            assert stream.cancel()
            with pytest.raises((asyncio.CancelledError, InferenceServerException)):
                await reading
            await until_nothing_is_outstanding(host)

    run(test())


def test_during_start_up_the_server_is_live_but_not_ready() -> None:
    async def test() -> None:
        async with (
            controller() as host,
            serve_grpc(host, LOOPBACK) as server,
            triton.InferenceServerClient(str(server.address)) as client,
        ):
            assert await client.is_server_live()
            assert not await client.is_server_ready()
            assert not await client.is_model_ready("m")
            async with grpc.aio.insecure_channel(str(server.address)) as channel:
                assert await health_of(channel, "") == health.HealthCheckResponse.NOT_SERVING

    run(test())


def test_waiting_calls_get_an_error_when_the_server_closes() -> None:
    async def test() -> None:
        async with serving(holds=held) as (host, worker):
            async with serve_grpc(host, LOOPBACK) as server:
                client = triton.InferenceServerClient(str(server.address))
                await until(host, Stage.SERVING)
                waiting = asyncio.ensure_future(client.infer("m", ones(3)))
                await worker.until(lambda: bool(worker.held))
            with pytest.raises(InferenceServerException, match="shutting down") as caught:
                await waiting
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            await client.close()

    run(test())


def test_a_grpc_port_in_use_is_an_error() -> None:
    async def test() -> None:
        async with controller() as host, serve_grpc(host, LOOPBACK) as server:
            with pytest.raises(ServerError, match=f"cannot listen for gRPC on {server.address}: "):
                async with serve_grpc(host, server.address):
                    pass

    run(test())


def test_a_model_is_loaded_during_start_up() -> None:
    async def test() -> None:
        async with (
            serving(models=()) as (host, _),
            serve_grpc(host, LOOPBACK) as server,
            triton.InferenceServerClient(str(server.address)) as client,
        ):
            await until(host, Stage.LOADING)
            await client.load_model("new.onnx")
            index = await client.get_model_repository_index()
            assert [(model.name, model.state) for model in index.models] == [("new", "LOADING")]
            assert "loading" in index.models[0].reason
            with pytest.raises(InferenceServerException, match="the server has no model repository"):
                await client.load_model("other.onnx", config="{}")

    run(test())


def test_a_load_beyond_the_limit_of_pending_loads_gets_resource_exhausted() -> None:
    async def test() -> None:
        async with (
            serving(control=ControlMode.EXPLICIT, max_loads=0) as (host, _),
            serve_grpc(host, LOOPBACK) as server,
            triton.InferenceServerClient(str(server.address)) as client,
        ):
            await until(host, Stage.SERVING)
            with pytest.raises(InferenceServerException, match="which is the limit; retry later") as refused:
                await client.load_model("n")
            assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"

    run(test())


METHODS = ("inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/ServerLive")
HEALTH = "grpc.health.v1.Health"


def test_invalid_messages_are_refused_without_a_log_line_or_harm_to_other_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    garbage = b"\xff\xff\xff"

    async def test() -> None:
        async with serving() as (host, _), serve_grpc(host, LOOPBACK) as server:
            await until(host, Stage.SERVING)
            async with grpc.aio.insecure_channel(str(server.address)) as channel:
                for method in (*METHODS, f"{HEALTH}/Check"):
                    with pytest.raises(grpc.aio.AioRpcError, match="message of 3 bytes is not a valid") as refused:
                        await channel.unary_unary(f"/{method}")(garbage)
                    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                with pytest.raises(grpc.aio.AioRpcError, match="message of 3 bytes is not a valid"):
                    await channel.unary_stream(f"/{HEALTH}/Watch")(garbage).read()
                streamed = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
                response = await streamed(iter([garbage])).read()
                assert (
                    "message of 3 bytes is not a valid ModelInferRequest"
                    in service_pb2.ModelStreamInferResponse.FromString(response).error_message
                )
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                assert (await stub.ServerReady(service_pb2.ServerReadyRequest())).ready

    run(test())
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    call = channel.unary_unary("/grpc.health.v1.Health/Check")
    request = health.HealthCheckRequest(service=service)
    response = health.HealthCheckResponse.FromString(await call(request.SerializeToString()))
    return int(response.status)


def test_the_health_checking_protocol_is_served() -> None:
    async def test() -> None:
        async with (
            front_end() as (host, _, _),
            serve_grpc(host, LOOPBACK) as server,
            grpc.aio.insecure_channel(str(server.address)) as channel,
        ):
            for service in ("", "inference.GRPCInferenceService"):
                assert await health_of(channel, service) == health.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_of(channel, "another")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    run(test())


def test_a_long_request_is_stored_in_memory_shared_with_the_worker() -> None:
    row = np.arange(1 << 20, dtype=np.float32).reshape(1, 1 << 20)

    async def test() -> None:
        async with front_end(models=("wide.onnx",), guarded={"payload_bytes": 32 * MIB}) as (host, worker, client):
            data = triton.InferInput("x", row.shape, "FP32")
            data.set_data_from_numpy(row)
            result = await client.infer("wide", [data])
            assert result.as_numpy("y").tolist() == [[0, 2, 4, 6]]
            actions = [action for action in worker.seen if isinstance(action, Infer)]
            (share,) = (share for action in actions for share in action.inputs if not share.generated)
            assert share.arena_offset >= 0
            assert share.arena_offset % 64 == 0
            assert host.arena is not None
            while host.arena.taken:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)

    run(test())
