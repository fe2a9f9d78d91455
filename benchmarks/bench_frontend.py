"""Measure the throughput and the latency of HTTP, gRPC and the native protocol.

    python benchmarks/bench_frontend.py --json frontend.json

The whole server (controller, front ends, worker) is pinned to one core, and the load generator to another core.
Requests and responses are binary. The client measures latencies, in milliseconds. `bench_overload.py` measures
overload. The keys are:

http_requests_per_s   a 64-64-10 MLP over HTTP from 64 connections
http_ms_p50           the same from one connection; http_ms_p50_8 and http_ms_p99_8 are from eight connections
grpc_requests_per_s   the MLP over gRPC with 64 requests in flight on one channel of grpc.aio
grpc_ms_p50           the same with one request in flight; grpc_ms_p50_8 and grpc_ms_p99_8 are with eight requests
native_*              the MLP over the native protocol
image_added_ms_p50    squeezenet over HTTP, 602,112 bytes a request, one in flight: the median, less that of bare ONNX
                      Runtime on the server's core, in turns
grpc_image_added_ms_p50  the same over gRPC
cold_start_s          from the start of the process to the first response of the MLP over HTTP; the profile was
                      measured by an earlier process
"""

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import raw_http
import uvloop
from serving import Bare, closed_loop, machine, median, options, p, serving, started, tell

from clockwork.client import AsyncClient
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.host.affinity import confined
from clockwork.zoo import build

CORES = sorted(os.sched_getaffinity(0))
SERVER, GENERATOR = CORES[0], CORES[-1]
SLO_MS = 10_000
METHOD = "/inference.GRPCInferenceService/ModelInfer"
PARTS = ("small", "image", "cold")


def keys(prefix: str, runs: dict[int, tuple[float, list[float]]]) -> dict[str, float]:
    """Return the results of one protocol. The keys of ``runs`` are the numbers of requests in flight."""
    return {
        f"{prefix}_requests_per_s": round(runs[64][0], 1),
        f"{prefix}_ms_p50": p(runs[1][1], 50),
        f"{prefix}_ms_p50_8": p(runs[8][1], 50),
        f"{prefix}_ms_p99_8": p(runs[8][1], 99),
    }


async def bench_small(model: Path, duration: float) -> dict[str, float]:
    """Measure the MLP over each protocol."""
    inputs = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    results: dict[str, float] = {}
    with serving("--http=127.0.0.1:0", "--grpc=127.0.0.1:0", model, on={SERVER}, here={GENERATOR}) as served:
        sent = raw_http.infer_request(served.http, model.stem, inputs, SLO_MS)
        await raw_http.closed_loop(served.http, sent, 64, duration / 2)  # warm-up
        runs = {n: await raw_http.closed_loop(served.http, sent, n, duration) for n in (64, 8, 1)}
        results |= keys("http", runs)
        wire = grpc_request(model.stem, inputs)
        async with grpc.aio.insecure_channel(served.grpc) as channel:
            infer = channel.unary_unary(METHOD)
            await closed_loop(lambda: infer(wire), 64, duration / 2)
            results |= keys("grpc", {n: await closed_loop(lambda: infer(wire), n, duration) for n in (64, 8, 1)})
        async with AsyncClient(served.native) as client:
            asks = {"data": inputs}
            runs = {
                n: await closed_loop(lambda: client.infer(model.stem, asks, slo=SLO_MS / 1e3), n, duration)
                for n in (64, 8, 1)
            }
            results |= keys("native", runs)
    return results


async def bench_image(model: Path, duration: float, rounds: int) -> dict[str, float]:
    """Measure the time that HTTP and gRPC, the controller and the worker add to squeezenet."""
    inputs = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    bare = Bare(model, {"data": inputs})
    added: dict[str, list[float]] = {"http": [], "grpc": []}
    answered: dict[str, list[float]] = {"http": [], "grpc": []}
    alone = []
    with serving("--http=127.0.0.1:0", "--grpc=127.0.0.1:0", model, on={SERVER}, here={GENERATOR}) as served:
        sent, wire = raw_http.infer_request(served.http, model.stem, inputs, SLO_MS), grpc_request(model.stem, inputs)
        async with grpc.aio.insecure_channel(served.grpc) as channel:
            infer = channel.unary_unary(METHOD)
            asks: dict[str, Callable[[float], Awaitable[tuple[float, list[float]]]]] = {
                "http": lambda seconds: raw_http.closed_loop(served.http, sent, 1, seconds),
                "grpc": lambda seconds: closed_loop(lambda: infer(wire), 1, seconds),
            }
            for ask in asks.values():
                await ask(duration / 2)
            for _ in range(rounds):
                without = bare.run(duration, SERVER)
                alone += without
                for protocol, ask in asks.items():
                    _, latencies = await ask(duration)
                    added[protocol].append(median(latencies) - median(without))
                    answered[protocol] += latencies
    return {
        "image_bare_ms_p50": median(alone),
        "image_ms_p50": median(answered["http"]),
        "image_added_ms_p50": median(added["http"]),
        "grpc_image_ms_p50": median(answered["grpc"]),
        "grpc_image_added_ms_p50": median(added["grpc"]),
    }


def grpc_request(model: str, inputs: np.ndarray) -> bytes:
    """Return a serialised ModelInferRequest."""
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[inputs.tobytes()])
    message.inputs.add(name="data", datatype="FP32", shape=inputs.shape)
    message.parameters["slo_ms"].double_param = SLO_MS
    wire: bytes = message.SerializeToString()
    return wire


async def bench_cold(model: Path, rounds: int) -> dict[str, float]:
    """Measure the time from the start of a server to its first response.

    The first start is not counted, because it also measures the model.
    """
    inputs = np.zeros((1, 64), np.float32)
    took = []
    with tempfile.TemporaryDirectory() as cache, confined({GENERATOR}):
        for _ in range(rounds + 1):
            address = f"127.0.0.1:{free_port()}"
            request = raw_http.infer_request(address, model.stem, inputs, SLO_MS)
            begin = time.perf_counter()
            with started(f"--http={address}", f"--profile-cache={cache}", model, on={SERVER}):
                took.append(await first_answer(address, request) - begin)
    return {"cold_start_s": median(took[1:])}


def free_port() -> int:
    """Return a TCP port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def first_answer(address: str, request: bytes) -> float:
    """Send a request again and again, and return the time of the first success."""
    while not await answers(address, request):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.005)
    return time.perf_counter()


async def answers(address: str, request: bytes) -> bool:
    """Send a request, and return whether it succeeds."""
    try:
        connection = await raw_http.connect(address)
    except OSError:  # raised while the server does not listen
        return False
    status = await connection.ask(request)
    connection.transport.close()
    return status == 200


async def main() -> None:
    """Measure and print the results."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure only this")
    given = parser.parse_args()
    results: dict[str, Any] = machine()
    with tempfile.TemporaryDirectory() as directory:
        mlp, squeezenet = (build(name, Path(directory)) for name in ("mlp", "squeezenet"))
        if "small" in given.only:
            results |= await bench_small(mlp, given.seconds)
        if "image" in given.only:
            results |= await bench_image(squeezenet, given.seconds, given.rounds)
        if "cold" in given.only:
            results |= await bench_cold(mlp, given.rounds)
    tell(results, given.json)


if __name__ == "__main__":
    uvloop.run(main())
