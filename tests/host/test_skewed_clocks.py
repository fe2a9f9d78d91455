"""A worker whose clock shows another time: windows and timings are translated at the controller's edge."""

import asyncio
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
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import MIB, Nanos, seconds
from clockwork.zoo import build

HOURS = seconds(7200)


@pytest.mark.parametrize(("controllers", "workers"), [(0, HOURS), (HOURS, 0), (0, 0)])
def test_a_request_is_served_in_time_whatever_the_clocks_show(
    tmp_path: Path, controllers: Nanos, workers: Nanos
) -> None:
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
        config = WorkerConfig(tmp_path, cache_bytes=64 * MIB)
        worker = WorkerHost(host.worker_address, "skewed", threads(config, OnnxRuntime(), clock), clock=clock)
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
