"""What the gRPC front end costs: a 64-64-10 MLP over the Open Inference Protocol.

    python benchmarks/bench_grpc.py --json results.json

The server, controller and worker together, is pinned to one core. The client is pinned to the other, and sends
messages made beforehand over one grpc.aio channel. Keys: ``grpc_requests_per_s`` with 64 requests in flight;
``grpc_ms_p50`` with one, in milliseconds seen by the client; ``native_*`` are the same of the native protocol, in the
same run.
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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import uvloop

from clockwork.client import AsyncClient
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.zoo import build

IN_FLIGHT = 64
CORES = sorted(os.sched_getaffinity(0))
SERVER, CLIENT = {CORES[-1]}, {CORES[0]}
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@contextmanager
def server(model: Path) -> Iterator[tuple[str, str]]:
    """`clockwork serve`; yields its addresses for gRPC and for the native protocol."""
    arguments = ["--listen", "127.0.0.1:0", "--http", "none", "--grpc", "127.0.0.1:0", "--slo", "10s", str(model)]
    os.sched_setaffinity(0, SERVER)
    command = [str(Path(sys.executable).with_name("clockwork")), "serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(0, CLIENT)
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            if not lines[1]:
                raise SystemExit(f"the server ended with {process.wait()}: {' '.join(command)}")
            yield lines[0].split()[-1], lines[1].split()[-1]
        finally:
            process.terminate()


async def closed_loop(
    ask: Callable[[], Awaitable[object]], in_flight: int, duration: float
) -> tuple[float, list[float]]:
    """Requests per second, and the latencies in ms."""
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + duration

    async def one_after_the_other() -> None:
        while (asked := time.perf_counter()) < end:
            await ask()
            latencies.append((time.perf_counter() - asked) * 1e3)

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    return len(latencies) / (time.perf_counter() - begin), latencies


async def measure(prefix: str, ask: Callable[[], Awaitable[object]], duration: float) -> dict[str, float]:
    """The keys of one protocol."""
    await closed_loop(ask, 8, duration / 4)  # warm-up
    rate, _ = await closed_loop(ask, IN_FLIGHT, duration)
    _, latencies = await closed_loop(ask, 1, duration)
    return {
        f"{prefix}_requests_per_s": round(rate, 1),
        f"{prefix}_ms_p50": round(statistics.median(latencies), 3),
    }


async def bench(model: Path, duration: float) -> dict[str, float]:
    """Both protocols, on one server."""
    data = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    message = pb.ModelInferRequest(model_name=model.stem, raw_input_contents=[data.tobytes()])
    message.inputs.add(name="data", datatype="FP32", shape=data.shape)
    wire = message.SerializeToString()
    with server(model) as (grpc_address, address):
        async with grpc.aio.insecure_channel(grpc_address) as channel:
            infer = channel.unary_unary(METHOD)
            results = await measure("grpc", lambda: infer(wire), duration)
        async with AsyncClient(address) as client:
            results |= await measure("native", lambda: client.infer(model.stem, {"data": data}), duration)
    return results


async def main() -> None:
    """Measure, and print, and write, the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        results = await bench(build("mlp", Path(directory)), options.seconds)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    uvloop.run(main())
