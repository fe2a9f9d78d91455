"""Settings of the gRPC front end: keep-alive pings, and the request parameter ``timeout``."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, run, serving
from clockwork.controller.stage import Stage
from clockwork.grpc_frontend import serve_grpc
from clockwork.grpc_frontend.config import GrpcConfig
from clockwork.http2 import limits
from clockwork.units import SECOND
from http2_raw import END_HEADERS, HEADERS, Http2, first_headers, frame

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def ones() -> list[triton.InferInput]:
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    return [tensor]


@asynccontextmanager
async def client(config: GrpcConfig) -> AsyncIterator[Any]:
    async with (
        serving() as (host, _),
        serve_grpc(host, LOOPBACK, config) as server,
        triton.InferenceServerClient(str(server.address)) as found,
    ):
        while host.progress()[0] != Stage.SERVING.value:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        yield found


def test_a_refusal_has_the_slo_and_its_source() -> None:
    async def test() -> None:
        async with client(GrpcConfig()) as found:
            for options, slo in (
                ({"timeout": 30}, "deadline of 0.03 ms from the request parameter timeout, in microseconds"),
                ({"parameters": {"slo_ms": 0.03}}, "deadline of 0.03 ms from the request parameter slo_ms"),
            ):
                with pytest.raises(InferenceServerException) as caught:
                    await found.infer("m", ones(), **options)
                assert caught.value.message().endswith(f"({slo})")

    run(test())


def test_the_parameter_timeout_can_be_ignored() -> None:
    async def test() -> None:
        async with client(GrpcConfig(ignore_timeout=True)) as found:
            assert (await found.infer("m", ones(), timeout=30)).as_numpy("y").tolist() == [[2.0] * 4]

    run(test())


def pinged(address: str, pings: int, pause: float, *, in_stream: bool) -> int:
    """Return the number of pings that the server answers."""
    peer = Http2(address)
    try:
        if in_stream:
            peer.send(frame(HEADERS, END_HEADERS, 1, first_headers(STREAM, b"a", b"b", 1)))
        for answered in range(pings):
            try:
                peer.processed()
            except (AssertionError, OSError):
                return answered
            time.sleep(pause)
    finally:
        peer.close()
    return pings


@pytest.mark.parametrize("in_stream", [True, False], ids=["an idle stream", "no call"])
def test_pings_are_answered_unless_they_come_too_often(monkeypatch: pytest.MonkeyPatch, in_stream: bool) -> None:
    assert limits.MIN_PING_INTERVAL < 10 * SECOND  # gRPC clients ping every 10 s at most often
    monkeypatch.setattr(limits, "MIN_PING_INTERVAL", SECOND // 10)

    async def test() -> None:
        async with serving() as (host, _), serve_grpc(host, LOOPBACK) as server:
            address = str(server.address)
            assert await asyncio.to_thread(pinged, address, 8, 0.15, in_stream=in_stream) == 8
            assert await asyncio.to_thread(pinged, address, 1000, 0, in_stream=in_stream) < 1000

    run(test())
