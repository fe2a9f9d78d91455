"""Measure the cost of the native client, the connection, the controller and the worker.

    python benchmarks/bench_native.py --json results.json

There are three parts. Each runs with 1, 8 and 64 outstanding requests on one connection:

(a) the scheduler ``echo``, which executes no model
(b) a 64-64-10 MLP
(c) squeezenet, measured in turns with a loop around bare ONNX Runtime on the same core

Client and server share the machine, but the client does not use the device's core. The client measures latencies, in
milliseconds.
"""

import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import uvloop
from serving import Bare, closed_loop, machine, options, p, serving, tell

from clockwork.client import AsyncClient
from clockwork.zoo import build

OUTSTANDING = (1, 8, 64)
SLO = 10.0
CORES = os.sched_getaffinity(0)
DEVICE = max(CORES)  # the core on which `clockwork serve` puts its device
OTHERS = CORES - {DEVICE} or CORES


def summary(prefix: str, outstanding: int, rates: list[float], latencies: list[float]) -> dict[str, float]:
    """Return the results for one number of outstanding requests."""
    return {
        f"{prefix}_requests_per_s_{outstanding}": round(statistics.median(rates), 1),
        f"{prefix}_latency_ms_p50_{outstanding}": p(latencies, 50),
        f"{prefix}_latency_ms_p99_{outstanding}": p(latencies, 99),
    }


def asking(client: AsyncClient, model: str, inputs: dict[str, np.ndarray]) -> Callable[[], Awaitable[object]]:
    """Return a function that sends a request and waits for its response."""
    return lambda: client.infer(model, inputs, slo=SLO)


async def bench_small(prefix: str, arguments: list[str], model: Path, duration: float) -> dict[str, float]:
    """Measure part (a) or part (b)."""
    inputs = {"data": np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)}
    results: dict[str, float] = {}
    with serving(*arguments, model, on=CORES, here=OTHERS) as served:
        async with AsyncClient(served.native) as client:
            ask = asking(client, model.stem, inputs)
            await closed_loop(ask, 8, duration / 4)  # warm-up
            for outstanding in OUTSTANDING:
                rate, latencies = await closed_loop(ask, outstanding, duration)
                results |= summary(prefix, outstanding, [rate], latencies)
    return results


async def bench_squeezenet(model: Path, duration: float, rounds: int) -> dict[str, float]:
    """Measure part (c). The server and bare ONNX Runtime take turns, so that other programs disturb both."""
    inputs = {"data": np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    alone_on = Bare(model, inputs)
    bare: list[float] = []
    ratios: list[float] = []
    added: list[float] = []
    rates: dict[int, list[float]] = {n: [] for n in OUTSTANDING}
    answered: dict[int, list[float]] = {n: [] for n in OUTSTANDING}
    with serving("--slo=10", model, on=CORES, here=OTHERS) as served:
        async with AsyncClient(served.native) as client:
            ask = asking(client, model.stem, inputs)
            await closed_loop(ask, 8, duration / 2)
            for _ in range(rounds):
                alone = alone_on.run(duration, DEVICE)
                bare += alone
                for outstanding in OUTSTANDING:
                    rate, latencies = await closed_loop(ask, outstanding, duration)
                    rates[outstanding].append(rate)
                    answered[outstanding] += latencies
                    if outstanding == 1:
                        added.append(statistics.median(latencies) - statistics.median(alone))
                    if outstanding == 8:
                        again = alone_on.run(duration, DEVICE)  # just before the server is measured
                        bare += again
                        ratios.append(rate * statistics.mean(again) / 1e3)
    results: dict[str, float] = {
        "bare_requests_per_s": round(1e3 / statistics.mean(bare), 1),
        "bare_latency_ms_p50": round(statistics.median(bare), 3),
        "squeezenet_throughput_vs_bare": round(statistics.median(ratios), 3),
        "squeezenet_added_latency_ms_p50": round(statistics.median(added), 3),
    }
    for outstanding in OUTSTANDING:
        results |= summary("squeezenet", outstanding, rates[outstanding], answered[outstanding])
    return results


async def main() -> None:
    """Run all three parts."""
    given = options(__doc__, rounds=5).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        mlp, squeezenet = (build(name, Path(directory)) for name in ("mlp", "squeezenet"))
        results = machine()
        results |= await bench_small("echo", ["--scheduler=echo"], mlp, given.seconds)
        results |= await bench_small("mlp", ["--scheduler=simple", "--slo=10"], mlp, given.seconds)
        results |= await bench_squeezenet(squeezenet, given.seconds, given.rounds)
    tell(results, given.json)


if __name__ == "__main__":
    uvloop.run(main())
