"""Batches that are longer than the frame of any of their requests."""

import asyncio

import numpy as np
import pytest

from client.live import LOOPBACK, QUICK, run
from clockwork.client import AsyncClient
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.errors import ServerError
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.worker import EmulatedDevices, run_emulated
from clockwork.messages.tensors import TensorInfo
from clockwork.paced.models import PROFILES, PacedModel
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import KIB

COLUMNS = 10_000
MODEL = PacedModel(
    "m",
    "d",
    PROFILES["resnet50-v100"],
    inputs=(TensorInfo("x", "FP32", (-1, COLUMNS)),),
    outputs=(TensorInfo("y", "FP32", (-1, 2)),),
)
ROW = {"x": np.ones((1, COLUMNS), np.float32)}


async def ask_at_once(count: int) -> list[object]:
    """Return the outcomes of 40 kB requests that are sent together; a client's frame has at most 64 KiB."""
    config = ControllerConfig(models=(LoadSpec("m", "m"),), profiling=QUICK, max_pending=1000)
    settings = ControllerHostConfig(LOOPBACK, LOOPBACK, config, max_frame_bytes=64 * KIB)
    host = ControllerHost(settings, make_scheduler("clockwork"))
    await host.start()
    working = asyncio.ensure_future(run_emulated(host.worker_address, "w", [MODEL], EmulatedDevices(1, 100)))
    try:
        async with AsyncClient(str(host.client_address)) as client:
            await client.infer("m", ROW, slo=10)
            requests = (client.infer("m", ROW, slo=10) for _ in range(count))
            outcomes: list[object] = list(await asyncio.gather(*requests, return_exceptions=True))
            await client.infer("m", ROW, slo=10)
            return outcomes
    finally:
        working.cancel()
        await asyncio.wait([working])
        await host.close()


def test_a_batch_may_be_longer_than_the_frames_of_its_requests() -> None:
    async def test() -> None:
        outcomes = await ask_at_once(40)
        assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]

    run(test())


def test_a_batch_that_does_not_fit_into_a_frame_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.host.controller.BATCH_FRAMES", 1)

    async def test() -> None:
        failed = [outcome for outcome in await ask_at_once(40) if isinstance(outcome, BaseException)]
        assert failed
        for outcome in failed:
            assert isinstance(outcome, ServerError)
            assert "the batch cannot be sent" in str(outcome)

    run(test())
