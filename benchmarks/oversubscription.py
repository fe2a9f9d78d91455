"""Send requests to ten times as many models as fit into the worker's weights cache.

    python benchmarks/oversubscription.py --seconds 120 --json oversubscription.json

For nine of ten requests, the model's weights are not in the cache. The scheduler ``simple`` loads them, and evicts the
least recently used weights. The program prints loads, evictions and goodput (successes within the SLO per second). The
program also prints the worker's resident memory in the first and the last third of the run. The worker's memory must
not grow.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.zoo import build

NETWORKS = ("squeezenet", "densenet121", "resnet50", "shufflenet")
TIMES = 10
PAGE = 1 << 20
SLO = 0.5
OUTSTANDING = 4
WARM_UP = 10.0  # seconds in which memory is not measured


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Load:
    """Clients that send requests to random models, and the outcomes of the requests."""

    def __init__(self, names: list[str], seconds: float) -> None:
        self.names = names
        self.end = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.failures = 0

    async def ask(self, client: AsyncClient, seed: int) -> None:
        chance = random.Random(seed)
        image = np.random.default_rng(seed).random((1, 3, 224, 224), dtype=np.float32)
        while (begin := time.perf_counter()) < self.end:
            try:
                await client.infer(chance.choice(self.names), {"data": image}, slo=SLO)
                self.latencies.append(time.perf_counter() - begin)
            except ClockworkError:
                self.failures += 1


async def watch(pid: int, levels: list[float], end: float) -> None:
    while time.perf_counter() < end:
        levels.append(resident(pid))
        await asyncio.sleep(0.25)


async def measure(address: str, worker: int, seconds: float) -> dict[str, float]:
    async with AsyncClient(address) as client:
        names = [it.name for it in await client.ls()]
        for name in names:
            await client.evict(name)
        warm_up = Load(names, WARM_UP)
        await asyncio.gather(*(warm_up.ask(client, seed) for seed in range(OUTSTANDING)))
        before = await client.status()
        load = Load(names, seconds)
        levels: list[float] = []
        asking = (load.ask(client, 100 + seed) for seed in range(OUTSTANDING))
        await asyncio.gather(watch(worker, levels, load.end), *asking)
        after = await client.status()
    loads = sum(it.cold_starts for it in after.models) - sum(it.cold_starts for it in before.models)
    gpu = after.workers[0].gpus[0].gpu
    third = len(levels) // 3
    return {
        "seconds": seconds,
        "models": len(names),
        "cache_mb": gpu.total_pages * PAGE / 1e6,
        "requests": len(load.latencies) + load.failures,
        "loads": loads,
        "evictions": loads,  # the cache is always full, so each load needs an eviction
        "goodput_per_s": round(sum(it <= SLO for it in load.latencies) / seconds, 1),
        "failures": load.failures,
        "latency_ms_p50": round(statistics.median(load.latencies) * 1e3, 1),
        "latency_ms_p99": round(float(np.percentile(load.latencies, 99)) * 1e3, 1),
        "resident_mb_first_third": round(statistics.median(levels[:third]), 1),
        "resident_mb_last_third": round(statistics.median(levels[-third:]), 1),
        "resident_mb_max": round(max(levels), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--copies", type=int, default=10, help="of each network")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        files = [build(name, directory / "models") for name in NETWORKS]
        runtime = OnnxRuntime(cache_dir=directory / "prepared")
        total = sum(runtime.load_model(file).info.weights_bytes for file in files) * given.copies
        command = [str(Path(sys.executable).with_name("clockwork")), "serve", "--listen", "127.0.0.1:0", "--http=none"]
        command += ["--scheduler", "simple", "--max-batch", "1", "--log-level", "warning", "--no-profile-cache"]
        command += [f"--cache-size={total // TIMES}", f"--page-size={PAGE}", f"--copies={given.copies}"]
        command += [f"--model-cache={directory / 'prepared'}", *map(str, files)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                address = process.stdout.readline().split()[-1]
                results = uvloop.run(measure(address, child_of(process.pid), given.seconds))
            finally:
                process.terminate()
    print(json.dumps(results, indent=1))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
