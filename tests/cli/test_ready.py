"""``clockwork serve`` is not ready within two seconds of a hang or crash of its only worker, and ready again later."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
import tritonclient.grpc.aio as triton

from cli.processes import Process, clockwork
from client.live import run
from clockwork.client import AsyncClient
from clockwork.grpc_frontend.health_pb2 import HealthCheckRequest, HealthCheckResponse

MODEL = "resnet50-v100"
PORTS = [f"--{protocol}=127.0.0.1:0" for protocol in ("listen", "http", "grpc")]
QUICK = ("--profile-seconds=0.01", "--max-batch=1", "--no-profile-cache", "--slo=20s")
NOTICED = 2.0
"""Seconds until a server whose only worker is killed or hangs must be unready."""


def ask(where: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
    """Return the status, Retry-After and body of a response."""
    try:
        with urlopen(Request(f"http://{where}/{path}", body), timeout=30) as answer:
            return answer.status, answer.headers.get("Retry-After", ""), answer.read()
    except HTTPError as error:
        return error.code, error.headers.get("Retry-After", ""), error.read()


class Server:
    """A server, and all the ways to query its readiness."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.native = process.address()
        self.http = process.out.wait_for(r"HTTP on (\S+)$")[1]
        self.grpc = process.out.wait_for(r"gRPC on (\S+)$")[1]

    async def until_ready(self, ready: bool, since: float) -> float:
        """Poll the HTTP port until its readiness is ``ready``; return the seconds since ``since``."""
        while (await asyncio.to_thread(ask, self.http, "v2/health/ready"))[0] != (200 if ready else 503):  # noqa: ASYNC110 - readiness can only be polled
            await asyncio.sleep(0.02)
        return time.monotonic() - since

    async def sources(self) -> dict[str, bool]:
        """Return the readiness from each source, by its name."""
        model = await asyncio.to_thread(ask, self.http, f"v2/models/{MODEL}/ready")
        index = await asyncio.to_thread(ask, self.http, "v2/repository/index", b"{}")
        metrics = (await asyncio.to_thread(ask, self.http, "metrics"))[2].decode().splitlines()
        answers = {"http model": model[0] == 200, "http index": json.loads(index[2])[0]["state"] == "READY"}
        answers["metrics"] = "clockwork_ready 1.0" in metrics
        answers["model metrics"] = f'clockwork_model_ready{{model="{MODEL}",version="1"}} 1.0' in metrics
        assert answers["http model"] or (model[0], model[1]) == (503, "1")
        async with AsyncClient(self.native) as client:
            status = await client.status()
        answers |= {"status": status.ready, "status model": status.models[0].ready}
        answers["status worker"] = any(worker.ready for worker in status.workers)
        async with triton.InferenceServerClient(self.grpc) as client, grpc.aio.insecure_channel(self.grpc) as channel:
            answers |= {"grpc": await client.is_server_ready(), "grpc model": await client.is_model_ready(MODEL)}
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            health = HealthCheckResponse.FromString(await check(b""))
            answers["grpc health"] = health.status == HealthCheckResponse.SERVING
            assert await client.is_server_live()
        assert (await asyncio.to_thread(ask, self.http, "v2/health/live"))[0] == 200
        return answers

    async def check(self, ready: bool) -> None:
        """Check that all sources agree."""
        sources = await self.sources()
        assert set(sources.values()) == {ready}, sources


def infer(where: str) -> tuple[int, str, bytes]:
    """Send a request with a deadline; return the status, Retry-After and body of the response."""
    tensor = {"name": "data", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": {"binary_data_size": 602112}}
    head = json.dumps({"inputs": [tensor], "parameters": {"slo_ms": 300}}).encode()
    request = Request(f"http://{where}/v2/models/{MODEL}/infer", head + bytes(602112))
    request.add_header("Inference-Header-Content-Length", str(len(head)))
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, "", answer.read()
    except HTTPError as error:
        return error.code, error.headers.get("Retry-After", ""), error.read()


def with_server(test: Callable[[Server], Awaitable[Any]]) -> None:
    """Run a test with a ready server."""
    with clockwork("serve", *PORTS, *QUICK, "--emulate=1", f"--profile={MODEL}") as process:
        server = Server(process)

        async def whole() -> None:
            await server.check(True)
            await test(server)

        run(whole())


async def watched(server: Server, change: Callable[[], None]) -> float:
    """Call ``change``; return the seconds until gRPC's Watch reports that the server does not serve."""
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        call = channel.unary_stream(
            "/grpc.health.v1.Health/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        watch = call(HealthCheckRequest())
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        change()
        since = time.monotonic()
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        return time.monotonic() - since


def test_a_server_whose_worker_is_killed_is_not_ready_until_the_restart() -> None:
    async def test(server: Server) -> None:
        os.kill(server.process.child(), signal.SIGKILL)
        since = time.monotonic()
        assert await server.until_ready(False, since) < NOTICED
        await server.until_ready(True, since)
        await server.check(True)
        assert infer(server.http)[0] == 200

    with_server(test)


def test_a_server_whose_worker_hangs_is_not_ready_until_the_worker_continues() -> None:
    async def test(server: Server) -> None:
        worker = server.process.child()
        os.kill(worker, signal.SIGSTOP)
        try:
            since = time.monotonic()
            assert await server.until_ready(False, since) < NOTICED
            await server.check(False)
            status, retry, body = await asyncio.to_thread(infer, server.http)
            assert (status, retry, json.loads(body)["status_name"]) == (503, "1", "SKIPPED_BY_CONTROLLER")
        finally:
            os.kill(worker, signal.SIGCONT)
        await server.until_ready(True, since)
        await server.check(True)
        assert infer(server.http)[0] == 200
        assert server.process.child() == worker, "a silent worker must not be restarted"

    with_server(test)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_grpc_watch_reports_that_the_worker_was_killed_or_hangs(number: signal.Signals) -> None:
    async def test(server: Server) -> None:
        worker = server.process.child()
        try:
            assert await watched(server, lambda: os.kill(worker, number)) < NOTICED
        finally:
            if number is signal.SIGSTOP:
                os.kill(worker, signal.SIGCONT)

    with_server(test)
