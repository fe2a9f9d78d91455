"""What the native client, the link, the controller and the worker cost, around the model that is executed.

    python benchmarks/bench_native.py --json results.json

(a) the echo scheduler: no model is executed; (b) a 64-64-10 MLP; (c) squeezenet, beside the same loop on bare ONNX
Runtime on the same core, in turns within one run. Each at 1, 8 and 64 requests outstanding on one connection. Client
and server share the machine; the client keeps off the device's core, as one on another machine would. Latencies are in
milliseconds, seen by the client.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import uvloop

from clockwork.client import AsyncClient
from clockwork.host.affinity import confined
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.zoo import build

OUTSTANDING = (1, 8, 64)
SLO = 10.0
CORES = os.sched_getaffinity(0)
DEVICE = max(CORES)  # where `clockwork serve` puts its one device
OTHERS = CORES - {DEVICE} or CORES


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """`clockwork serve`, on a port of the system's choice; yields its address."""
    command = [
        str(Path(sys.executable).with_name("clockwork")),
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--http=none",
        *arguments,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # "clockwork is serving N models on HOST:PORT"
            if not line:
                raise SystemExit(f"the server ended with {process.wait()}: {' '.join(command)}")
            with confined(OTHERS):
                yield line.split()[-1]
        finally:
            process.terminate()


async def closed_loop(
    client: AsyncClient, model: str, inputs: dict[str, np.ndarray], outstanding: int, duration: float
) -> tuple[float, list[float]]:
    """Requests per second, and the latencies in ms."""
    latencies: list[float] = []
    end = time.perf_counter() + duration

    async def one_after_the_other() -> None:
        while (begin := time.perf_counter()) < end:
            await client.infer(model, inputs, slo=SLO)
            latencies.append((time.perf_counter() - begin) * 1e3)

    begin = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    return len(latencies) / (time.perf_counter() - begin), latencies


def summary(prefix: str, outstanding: int, rates: list[float], latencies: list[float]) -> dict[str, float]:
    """The keys of one row."""
    return {
        f"{prefix}_requests_per_s_{outstanding}": round(statistics.median(rates), 1),
        f"{prefix}_latency_ms_p50_{outstanding}": round(float(np.percentile(latencies, 50)), 3),
        f"{prefix}_latency_ms_p99_{outstanding}": round(float(np.percentile(latencies, 99)), 3),
    }


async def bench_small(prefix: str, arguments: list[str], model: Path, duration: float) -> dict[str, float]:
    """One of (a) and (b)."""
    inputs = {"data": np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)}
    results: dict[str, float] = {}
    with server(*arguments, str(model)) as address:
        async with AsyncClient(address) as client:
            await closed_loop(client, model.stem, inputs, 8, duration / 4)  # warm-up
            for outstanding in OUTSTANDING:
                rate, latencies = await closed_loop(client, model.stem, inputs, outstanding, duration)
                results |= summary(prefix, outstanding, [rate], latencies)
    return results


def bare_loop(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], duration: float) -> list[float]:
    """Latencies in ms of bare ONNX Runtime, pinned to the core that the worker's device is pinned to."""
    with confined({DEVICE}):
        latencies = []
        end = time.perf_counter() + duration
        while (begin := time.perf_counter()) < end:
            session.run(None, inputs)
            latencies.append((time.perf_counter() - begin) * 1e3)
        return latencies


async def bench_squeezenet(model: Path, duration: float, rounds: int) -> dict[str, float]:
    """(c): served and bare take turns, so that a noisy neighbour disturbs both."""
    inputs = {"data": np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    session.run(None, inputs)
    bare: list[float] = []
    ratios: list[float] = []
    added: list[float] = []
    rates: dict[int, list[float]] = {n: [] for n in OUTSTANDING}
    served: dict[int, list[float]] = {n: [] for n in OUTSTANDING}
    with server("--slo", "10", str(model)) as address:
        async with AsyncClient(address) as client:
            await closed_loop(client, model.stem, inputs, 8, duration / 2)
            for _ in range(rounds):
                alone = bare_loop(session, inputs, duration)
                bare += alone
                for outstanding in OUTSTANDING:
                    rate, latencies = await closed_loop(client, model.stem, inputs, outstanding, duration)
                    rates[outstanding].append(rate)
                    served[outstanding] += latencies
                    if outstanding == 1:
                        added.append(statistics.median(latencies) - statistics.median(alone))
                    if outstanding == 8:
                        again = bare_loop(session, inputs, duration)  # right beside what it is compared with
                        bare += again
                        ratios.append(rate * statistics.mean(again) / 1e3)
    results: dict[str, float] = {
        "bare_requests_per_s": round(1e3 / statistics.mean(bare), 1),
        "bare_latency_ms_p50": round(statistics.median(bare), 3),
        "squeezenet_throughput_vs_bare": round(statistics.median(ratios), 3),
        "squeezenet_added_latency_ms_p50": round(statistics.median(added), 3),
    }
    for outstanding in OUTSTANDING:
        results |= summary("squeezenet", outstanding, rates[outstanding], served[outstanding])
    return results


async def main() -> None:
    """Run all three and print, and write, the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of served and bare in (c) (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        mlp = build("mlp", Path(directory))
        squeezenet = build("squeezenet", Path(directory))
        results: dict[str, float | str] = {"machine": f"{os.cpu_count()} cores, {OnnxRuntime().device_kind}"}
        results |= await bench_small("echo", ["--scheduler", "echo"], mlp, options.seconds)
        results |= await bench_small("mlp", ["--scheduler", "simple", "--slo", "10"], mlp, options.seconds)
        results |= await bench_squeezenet(squeezenet, options.seconds, options.rounds)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    uvloop.run(main())
