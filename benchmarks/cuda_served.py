"""Serve ten times as many models as fit into a GPU's weights cache. ``bench_cuda.py`` uses this module.

Controller, worker and clients are in one process. The models are copies of one file. Each copy has its own pages, into
which its weights are copied (`docs/gpu.md`). The results contain the goodput (successes within the SLO, per second),
refused and failed requests, and loads. The results also contain the share of inferences that took no longer than
estimated, the mean of estimate / actual, and the device's free memory before and after the run.
"""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from clockwork.client import AsyncClient
from clockwork.controller.config import ControllerConfig, LoadSpec, ProfilingConfig
from clockwork.errors import ClockworkError, DeadlineError
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.worker import WorkerConfig, run_worker
from clockwork.net.address import Address
from clockwork.runtimes.torch.cuda.runtime import CudaRuntime
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import seconds as as_seconds

TIMES = 10
SLO = 0.1
CLIENTS = 16
LOOPBACK = Address("127.0.0.1", 0)


class Counts:
    def __init__(self) -> None:
        self.good = self.refused = self.failed = 0


async def _ask(client: AsyncClient, names: list[str], feed: dict[str, Any], end: float, counts: Counts) -> None:
    chance = random.Random(id(client) + len(names))
    while time.perf_counter() < end:
        try:
            await client.infer(chance.choice(names), feed, slo=SLO)
            counts.good += 1
        except DeadlineError:
            counts.refused += 1
            await asyncio.sleep(0.001)
        except ClockworkError:
            counts.failed += 1


async def _serve(
    runtime: CudaRuntime, root: Path, path: str, models: int, seconds: float, cache: int
) -> dict[str, Any]:
    config = ControllerConfig(
        models=(LoadSpec(path, "", models),),
        profiling=ProfilingConfig(budget=as_seconds(0.2)),
        default_slo=as_seconds(SLO),
    )
    host = ControllerHost(ControllerHostConfig(LOOPBACK, LOOPBACK, config, None), make_scheduler("clockwork"))
    await host.start()
    settings = WorkerConfig(root, host.worker_address, cache_bytes=cache, page_size=runtime.devices[0].cache.page_size)
    worker = asyncio.ensure_future(run_worker(settings, runtime))
    device = runtime.devices[0]
    device.driver.attach()
    free = device.driver.free_bytes()
    counts = Counts()
    try:
        async with AsyncClient(str(host.client_address)) as client:
            while (await client.status()).stage.lower() != "serving":
                await asyncio.sleep(0.1)
                if worker.done():
                    worker.result()
            summaries = await client.ls()
            info = summaries[0].inputs[0]
            feed = {info.name: np.zeros((1, *info.shape[1:]), np.float32)}
            end = time.perf_counter() + seconds
            names = [it.name for it in summaries]
            await asyncio.gather(*(_ask(client, names, feed, end, counts) for _ in range(CLIENTS)))
            status = await client.status()
    finally:
        worker.cancel()
        await asyncio.wait([worker])
        await host.close()
    gpu = status.workers[0].gpus[0]
    infer = gpu.predictions["infer"]
    return {
        "models": len(names),
        "pages": gpu.gpu.total_pages,
        "seconds": seconds,
        "goodput_per_s": round(counts.good / seconds, 1),
        "refused": counts.refused,
        "failed": counts.failed,
        "loads": sum(it.cold_starts for it in status.models),
        "within_estimate": round(infer.within / max(1, infer.duration.count), 4),
        "estimate_over_actual": round(infer.expected_over_actual, 4),
        "free_mb_before": round(free / 1e6, 1),
        "free_mb_after": round(device.driver.free_bytes() / 1e6, 1),
    }


def measure(runtime: CudaRuntime, root: Path, path: str, models: int, seconds: float, weights: int) -> dict[str, Any]:
    """Serve ``models`` copies of a file. The cache has room for a tenth of them."""
    cache = runtime.devices[0].cache
    wanted = cache.pages_of(weights) * max(1, models // TIMES) * cache.page_size
    return asyncio.run(_serve(runtime, root, path, models, seconds, min(wanted, cache.nbytes)))
