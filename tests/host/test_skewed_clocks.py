"""A worker whose clock shows another time: windows and timings are translated at the controller's edge."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

from client.live import LOOPBACK, QUICK, run
from clockwork.client import AsyncClient
from clockwork.clock import MonotonicClock, OffsetClock
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.worker import WorkerConfig, WorkerHost, threads
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.scheduling.registry import make_scheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import MIB, Nanos, seconds
from clockwork.zoo import build

HOURS = seconds(7200)


@pytest.mark.parametrize(("controllers", "workers"), [(0, HOURS), (HOURS, 0), (0, 0)])
def test_a_request_is_served_in_time_with_skewed_clocks(tmp_path: Path, controllers: Nanos, workers: Nanos) -> None:
    build("mlp", tmp_path)

    async def test() -> None:
        config = ControllerConfig(models=(LoadSpec("mlp.onnx", "mlp"),), profiling=QUICK, default_slo=seconds(20))
        host = ControllerHost(
            ControllerHostConfig(LOOPBACK, LOOPBACK, config),
            SimpleScheduler(),
            clock=OffsetClock(MonotonicClock(), controllers),
        )
        await host.start()
        clock = OffsetClock(MonotonicClock(), workers, drift_ppm=50)
        worker_config = WorkerConfig(tmp_path, cache_bytes=64 * MIB)
        worker = WorkerHost(host.worker_address, "skewed", threads(worker_config, OnnxRuntime(), clock), clock=clock)
        working = asyncio.create_task(worker.run())
        try:
            async with AsyncClient(str(host.client_address)) as client:
                for _ in range(20):
                    result = await client.infer("mlp", {"data": np.ones((1, 64), np.float32)})
                    timing = result.timing
                    assert 0 < timing.exec < timing.total
                    assert timing.queue + timing.exec <= timing.total + seconds(0.01)  # the offset's own error
        finally:
            working.cancel()
            await asyncio.wait([working])
            await host.close()

    run(test())


WORKER = """
import sys, uvloop
from clockwork.clock import MonotonicClock, OffsetClock
from clockwork.host.worker import EmulatedDevices, run_emulated
from clockwork.net.address import parse_address
from clockwork.paced.models import PROFILES, PacedModel

models = [PacedModel("m", "d", PROFILES["resnet50-v100"])]
clock = OffsetClock(MonotonicClock(), int(sys.argv[2]), drift_ppm=100)
uvloop.run(run_emulated(parse_address(sys.argv[1], 0), "skewed", models, EmulatedDevices(2, 100), clock))
"""


@pytest.mark.parametrize("workers", [seconds(3000), seconds(86_400)])
def test_windows_and_predictions_hold_for_another_process_whose_clock_is_off(workers: Nanos) -> None:
    async def test() -> None:
        config = ControllerConfig(models=(LoadSpec("m", "m"),), profiling=QUICK)
        clock = OffsetClock(MonotonicClock(), seconds(5000))
        scheduler = make_scheduler("clockwork")
        host = ControllerHost(ControllerHostConfig(LOOPBACK, LOOPBACK, config), scheduler, clock=clock)
        await host.start()
        command = (sys.executable, "-c", WORKER, str(host.worker_address), str(workers))
        process = await asyncio.create_subprocess_exec(*command)
        try:
            async with AsyncClient(str(host.client_address)) as client:
                image = {"data": np.zeros((1, 3, 224, 224), np.float32)}
                for _ in range(50):
                    result = await client.infer("m", image, slo=10)
                    assert result.timing.exec >= 2_730_000
                    assert result.timing.queue + result.timing.exec <= result.timing.total + seconds(0.01)
                errors = (await client.status()).predictions["infer"].start
            assert errors.count >= 50
            assert max(errors.over_max, errors.under_max) < seconds(5), "not hours"
        finally:
            process.kill()
            await process.wait()
            await host.close()

    run(test())
