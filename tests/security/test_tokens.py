"""Tokens on all ports of a live controller with a scripted worker."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, ScriptedWorker, controller, run
from clockwork.access import Access, Tokens
from clockwork.client import AsyncClient
from clockwork.errors import ConnectionLostError, NotPermittedError
from clockwork.frontend import token_brake
from clockwork.grpc_frontend import health_pb2 as health
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost
from clockwork.http.server import serving_http
from clockwork.messages.status import Status
from http_raw import connected, eventually, row

READER, ADMIN, WORKER = "a-token-for-inference", "a-token-for-everything", "a-token-for-workers"
WRONG = "a-token-of-somebody-else"
ROW = np.ones((1, 4), np.float32)


@asynccontextmanager
async def guarded() -> AsyncIterator[ControllerHost]:
    settings = {"access": Access(Tokens([READER]), Tokens([ADMIN])), "worker_tokens": Tokens([WORKER])}
    async with controller(guarded=settings) as host:
        await ScriptedWorker().connect(host, token=WORKER)
        await eventually(lambda: host.progress()[0] == "serving")
        yield host


def test_a_native_client_needs_a_token_with_permission_for_each_request() -> None:
    async def test() -> None:
        async with guarded() as host:
            here = str(host.client_address)
            for token, why in (("", "a bearer token is needed"), (WRONG, "the bearer token is unknown")):
                with pytest.raises(ConnectionLostError, match=why):
                    await AsyncClient(here, token=token).connect()
            async with AsyncClient(here, token=READER) as client:
                await client.infer("m", {"x": ROW})
                await client.ls()
                await client.status()
                for refused in (client.load_model("m.onnx"), client.evict("m")):
                    with pytest.raises(NotPermittedError, match="use an admin token") as caught:
                        await refused
                    assert caught.value.status == Status.NOT_PERMITTED
                await client.infer("m", {"x": ROW})  # the connection stays open
            async with AsyncClient(here, token=ADMIN) as client:
                assert await client.evict("m") == 1

    run(test())


def test_a_worker_needs_a_worker_token() -> None:
    async def test() -> None:
        async with guarded() as host:
            for token in ("", WRONG, ADMIN):
                with pytest.raises(ConnectionLostError, match="worker has no valid token"):
                    await ScriptedWorker().connect(host, "w1", token)
            await ScriptedWorker().connect(host, "w1", WORKER)

    run(test())


def test_guesses_of_tokens_are_slowed_down_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with guarded() as host, serving_http(host, LOOPBACK) as address, connected(address) as peer:
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(5):
                assert (await peer.ask("GET", "/v2", b"", **bearer(WRONG))).status == 401
            assert loop.time() - began >= 5 * token_brake.DELAY
            for _ in range(20):
                assert (await peer.ask("GET", "/v2", b"", **bearer(READER))).status == 200
            async with serve_grpc(host, LOOPBACK) as server:
                began = loop.time()
                client = triton.InferenceServerClient(str(server.address))
                with pytest.raises(InferenceServerException, match="the bearer token is unknown"):
                    await client.get_server_metadata(headers={"authorization": f"Bearer {WRONG}"})
                await client.close()
                assert loop.time() - began >= token_brake.DELAY

    run(test())
    lines = [record.getMessage() for record in caplog.records if record.name == "clockwork.access"]
    assert lines == ["refused requests with an unknown bearer token: 1"] * 2  # one for HTTP, one for gRPC


def bearer(token: str) -> dict[str, Any]:
    return {"Authorization": f"Bearer {token}"} if token else {}


HTTP = [
    ("GET", "/v2/health/live", (200, 200, 200)),
    ("GET", "/v2/health/ready", (200, 200, 200)),
    ("GET", "/v2", (401, 200, 200)),
    ("GET", "/v2/models/m", (401, 200, 200)),
    ("GET", "/v2/models/m/config", (401, 200, 200)),
    ("GET", "/v2/models/m/stats", (401, 200, 200)),
    ("GET", "/v2/models/stats", (401, 200, 200)),
    ("GET", "/v2/models/nobody", (401, 404, 404)),
    ("GET", "/metrics", (401, 200, 200)),
    ("GET", "/v2/clockwork/scaling", (401, 200, 200)),
    ("POST", "/v2/models/m/infer", (401, 200, 200)),
    ("POST", "/v2/repository/index", (401, 200, 200)),
    ("POST", "/v2/repository/models/m/load", (401, 403, 400)),  # 400: the server is already serving
    ("POST", "/v2/repository/models/m/unload", (401, 403, 400)),
]


def test_http_needs_a_token_except_for_health() -> None:
    async def test() -> None:
        async with guarded() as host, serving_http(host, LOOPBACK) as address, connected(address) as peer:
            for method, path, wanted in HTTP:
                body = row() if path.endswith("infer") else b""
                found = [await peer.ask(method, path, body, **bearer(token)) for token in (WRONG, READER, ADMIN)]
                assert tuple(answer.status for answer in found) == wanted, path
                without = await peer.ask(method, path, body)
                assert without.status == wanted[0]
                if without.status == 401:
                    assert without.headers["www-authenticate"].startswith("Bearer")
                    assert without.json()["status_name"] == "NOT_AUTHENTICATED"
                assert not any(token in repr(answer) for answer in found for token in (WRONG, READER, ADMIN))

    run(test())


def test_a_large_body_without_a_token_is_refused_before_it_is_received() -> None:
    async def test() -> None:
        async with guarded() as host, serving_http(host, LOOPBACK) as address, connected(address) as peer:
            peer.writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 200000000\r\n\r\n")
            assert (await peer.answer()).status == 401

    run(test())


@asynccontextmanager
async def grpc_client() -> AsyncIterator[triton.InferenceServerClient]:
    async with (
        guarded() as host,
        serve_grpc(host, LOOPBACK) as server,
        triton.InferenceServerClient(str(server.address)) as client,
    ):
        yield client


def ones() -> list[triton.InferInput]:
    data = triton.InferInput("x", [1, 4], "FP32")
    data.set_data_from_numpy(ROW)
    return [data]


def test_grpc_needs_a_token_except_for_health() -> None:
    async def test() -> None:
        async with grpc_client() as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            calls: list[Callable[[dict[str, str]], Any]] = [
                lambda headers: client.infer("m", ones(), headers=headers),
                lambda headers: client.get_server_metadata(headers=headers),
                lambda headers: client.get_model_config("m", headers=headers),
                lambda headers: client.get_inference_statistics("m", headers=headers),
                lambda headers: client.get_model_repository_index(headers=headers),
            ]
            for call in calls:
                for headers in ({}, {"authorization": f"Bearer {WRONG}"}, {"authorization": READER}):
                    with pytest.raises(InferenceServerException) as caught:
                        await call(headers)
                    assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
                    assert WRONG not in str(caught.value)
                for token in (READER, ADMIN):
                    await call({"authorization": f"Bearer {token}"})
            for token, status in ((READER, "PERMISSION_DENIED"), (ADMIN, "INVALID_ARGUMENT")):
                with pytest.raises(InferenceServerException) as caught:
                    await client.load_model("m.onnx", headers={"authorization": f"Bearer {token}"})
                assert caught.value.status() == f"StatusCode.{status}"

    run(test())


def test_only_an_admin_token_changes_log_settings() -> None:
    async def test() -> None:
        async with guarded() as host, serving_http(host, LOOPBACK) as address, serve_grpc(host, LOOPBACK) as server:
            async with connected(address) as peer:
                assert (await peer.ask("GET", "/v2/logging")).status == 401
                assert (await peer.ask("GET", "/v2/logging", **bearer(READER))).status == 200
                assert (await peer.ask("POST", "/v2/logging", **bearer(READER))).status == 403
                assert (await peer.ask("POST", "/v2/logging", **bearer(ADMIN))).status == 200
            async with triton.InferenceServerClient(str(server.address)) as client:
                reader, admin = ({"authorization": f"Bearer {token}"} for token in (READER, ADMIN))
                before = await client.get_log_settings(headers=reader)
                with pytest.raises(InferenceServerException) as caught:
                    await client.update_log_settings({"log_info": True}, headers=reader)
                assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
                assert await client.update_log_settings({"log_info": True}, headers=admin) == before

    run(test())


def test_grpc_health_needs_no_token_and_streams_do() -> None:
    async def test() -> None:
        async with guarded() as host, serve_grpc(host, LOOPBACK) as server:
            async with grpc.aio.insecure_channel(str(server.address)) as channel:
                check = channel.unary_unary(
                    "/grpc.health.v1.Health/Check",
                    health.HealthCheckRequest.SerializeToString,
                    health.HealthCheckResponse.FromString,
                )
                assert (await check(health.HealthCheckRequest())).status == 1
            async with triton.InferenceServerClient(str(server.address)) as client:
                request = {"model_name": "m", "inputs": ones()}

                async def requests() -> AsyncIterator[dict[str, Any]]:
                    yield request

                with pytest.raises(grpc.aio.AioRpcError, match="a bearer token is needed"):
                    async for _ in client.stream_infer(requests()):
                        pass
                headers = {"authorization": f"Bearer {READER}"}
                answers = [error async for _, error in client.stream_infer(requests(), headers=headers)]
                assert answers == [None]

    run(test())


def test_no_token_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with guarded() as host, serving_http(host, LOOPBACK) as address, connected(address) as peer:
            for token in (WRONG, READER):
                await peer.ask("POST", "/v2/repository/models/m/load", **bearer(token))
            with pytest.raises(ConnectionLostError):
                await AsyncClient(str(host.client_address), token=WRONG).connect()
            async with AsyncClient(str(host.client_address), token=READER) as client:
                with pytest.raises(NotPermittedError):
                    await client.evict("m")

    with caplog.at_level(logging.DEBUG):
        run(test())
    assert caplog.records
    assert not any(token in caplog.text for token in (WRONG, READER, ADMIN, WORKER))
