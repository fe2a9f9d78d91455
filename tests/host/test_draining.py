"""A live controller that drains, as its clients see it over all three protocols."""

import asyncio
import json
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, run
from clockwork.client import AsyncClient
from clockwork.errors import ServerError
from clockwork.grpc_frontend import health_pb2 as health
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost
from clockwork.messages.actions import Infer
from clockwork.messages.status import Status
from clockwork.net.address import Address
from clockwork.units import ms, seconds
from http_raw import RawResponse, connected, eventually, row, served

ROW = np.ones((1, 4), np.float32)
THREE = np.ones((3, 4), np.float32)


def held(action: Any) -> bool:
    """The worker holds back requests with 3 rows, a batch size that profiling does not use."""
    return isinstance(action, Infer) and action.batch_size == 3


def test_pending_requests_are_answered_and_new_ones_refused_over_all_protocols() -> None:
    async def test() -> None:
        async with (
            served(holds=held) as (_, address, host, worker),
            serve_grpc(host, LOOPBACK) as rpc,
            AsyncClient(str(host.client_address)) as client,
        ):
            pending = asyncio.ensure_future(client.model("m").infer({"x": THREE}))
            over_http = asyncio.ensure_future(ask_http(address))
            over_grpc = asyncio.ensure_future(ask_grpc(str(rpc.address), THREE))
            while (await client.status()).outstanding < 3:  # noqa: ASYNC110 - no event signals this
                await asyncio.sleep(0.005)
            draining = asyncio.ensure_future(host.drain(seconds(600)))
            await eventually(lambda: host.progress()[0] == "draining")
            await check_http(address)
            await check_grpc(str(rpc.address))
            await check_native(host)
            assert not draining.done()
            worker.holds = lambda action: False
            for action, payload in worker.held:
                worker.answer(action, payload)
            await draining
            assert (await pending)["y"].shape == (3, 4)
            assert (await over_http).json()["outputs"][0]["shape"] == [3, 4]
            assert (await over_grpc).as_numpy("y").shape == (3, 4)

    run(test())


async def ask_http(address: Address) -> RawResponse:
    tensor = {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": [1] * 12}
    async with connected(address) as peer:
        return await peer.ask("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode())


async def ask_grpc(address: str, rows: Any) -> Any:
    asked = triton.InferInput("x", list(rows.shape), "FP32")
    asked.set_data_from_numpy(rows)
    async with triton.InferenceServerClient(address) as client:
        return await client.infer("m", [asked])


async def check_http(address: Address) -> None:
    async with connected(address) as peer:  # new connections are still accepted
        assert (await peer.ask("GET", "/v2/health/live")).status == 200
        ready = await peer.ask("GET", "/v2/health/ready")
        assert (ready.status, ready.json()) == (503, {"ready": False})
    async with connected(address) as peer:
        ready = await peer.ask("GET", "/v2/models/m/ready")
        assert (ready.status, ready.json()["status_name"]) == (503, "SHUTTING_DOWN")
    async with connected(address) as peer:
        refused = await peer.ask("POST", "/v2/models/m/infer", row())
        assert (refused.status, refused.json()["status_name"]) == (503, "SHUTTING_DOWN")
        assert refused.headers["connection"] == "close"
        assert await peer.reader.read() == b""


async def check_grpc(address: str) -> None:
    async with triton.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert not await client.is_server_ready()
        assert not await client.is_model_ready("m")
        with pytest.raises(InferenceServerException, match="shutting down") as caught:
            await ask_grpc(address, ROW)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )
        assert (await check(health.HealthCheckRequest())).status == health.HealthCheckResponse.NOT_SERVING


async def check_native(host: ControllerHost) -> None:
    async with AsyncClient(str(host.client_address)) as client:
        assert (await client.status()).stage == "draining"
        with pytest.raises(ServerError, match="shutting down") as caught:
            await client.model("m").infer({"x": ROW})
        assert caught.value.status == Status.SHUTTING_DOWN


def test_a_drain_ends_at_its_limit_and_waiting_clients_get_an_answer() -> None:
    async def test() -> None:
        async with served(holds=held) as (_, _, host, worker), AsyncClient(str(host.client_address)) as client:
            pending = asyncio.ensure_future(client.model("m").infer({"x": THREE}))
            await worker.until(lambda: bool(worker.held))
            await host.drain(ms(20))
            with pytest.raises(ServerError, match="shutting down") as caught:
                await pending
            assert caught.value.status == Status.SHUTTING_DOWN

    run(test())


def test_a_second_drain_waits_for_the_same_end() -> None:
    async def test() -> None:
        async with served() as (_, _, host, _):
            await host.drain(seconds(600))
            await host.drain(seconds(600))

    run(test())
