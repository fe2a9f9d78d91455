"""What the HTTP front end costs: requests per second, and what it adds to the time of a model.

    python benchmarks/bench_frontend.py --json results.json

The whole server (controller, front end, worker) is pinned to one core, the load generator to another. Requests and
answers are binary. (a) a 64-64-10 MLP from 64 connections, and from one; (b) squeezenet from one connection, 602,112
bytes a request, beside the same model on bare ONNX Runtime on the server's core, in turns within one run. Latencies are
in milliseconds, seen by the client.
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
from typing import Any

import numpy as np
import onnxruntime
import uvloop

from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.zoo import build

CORES = sorted(os.sched_getaffinity(0))
SERVER, GENERATOR = CORES[0], CORES[-1]
SLO_MS = 10_000
LENGTH = b"\r\ncontent-length: "


class Connection(asyncio.Protocol):
    """Sends one request after the other until told to stop, and notes how long each took."""

    def __init__(self, request: bytes, latencies: list[float], end: float) -> None:
        self.request, self.latencies, self.end = request, latencies, end
        self.done = asyncio.get_running_loop().create_future()
        self.received = bytearray()
        self.begin = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.begin = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.received.index(LENGTH) + len(LENGTH)
        if len(self.received) < head + 4 + int(self.received[at : self.received.index(b"\r", at)]):
            return
        now = time.perf_counter()
        self.latencies.append((now - self.begin) * 1e3)
        if not self.received.startswith(b"HTTP/1.1 200 "):
            self.done.set_exception(RuntimeError(self.received.decode(errors="replace")))
        elif now < self.end:
            self.received.clear()
            self.ask()
            return
        else:
            self.done.set_result(None)
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("the server closed the connection"))


def request(address: str, model: str, inputs: np.ndarray) -> bytes:
    """A whole HTTP request."""
    tensor = {"name": "data", "datatype": "FP32", "shape": inputs.shape}
    parameters = {"binary_data_output": True, "slo_ms": SLO_MS}
    tensor["parameters"] = {"binary_data_size": inputs.nbytes}
    said = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(said) + inputs.nbytes}\r\n"
        f"Inference-Header-Content-Length: {len(said)}\r\n\r\n"
    )
    return head.encode() + said + inputs.tobytes()


async def load(address: str, sent: bytes, connections: int, duration: float) -> tuple[float, list[float]]:
    """Requests per second, and the latencies in ms."""
    host, _, port = address.rpartition(":")
    latencies: list[float] = []
    begin = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Connection(sent, latencies, begin + duration), host, int(port)))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for connection in made))
    return len(latencies) / (time.perf_counter() - begin), latencies


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """`clockwork serve` on one core; yields where it serves HTTP."""
    command = [str(Path(sys.executable).with_name("clockwork")), "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0"]
    os.sched_setaffinity(0, {SERVER})
    with subprocess.Popen([*command, "--log-level=error", *arguments], stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(0, {GENERATOR})
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]  # "clockwork serves HTTP on HOST:PORT"
            if "is serving" not in process.stdout.readline():
                raise SystemExit(f"the server ended with {process.wait()}: {' '.join(command)}")
            yield address
        finally:
            process.terminate()


def bare(session: onnxruntime.InferenceSession, inputs: np.ndarray, duration: float) -> list[float]:
    """Latencies in ms of bare ONNX Runtime on the server's core."""
    os.sched_setaffinity(0, {SERVER})
    latencies = []
    end = time.perf_counter() + duration
    while (begin := time.perf_counter()) < end:
        session.run(None, {"data": inputs})
        latencies.append((time.perf_counter() - begin) * 1e3)
    os.sched_setaffinity(0, {GENERATOR})
    return latencies


async def bench_small(model: Path, duration: float) -> dict[str, float]:
    """(a)."""
    inputs = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    with server(str(model)) as address:
        sent = request(address, model.stem, inputs)
        await load(address, sent, 64, duration / 2)  # warm-up
        rate, many = await load(address, sent, 64, duration)
        _, alone = await load(address, sent, 1, duration)
    return {
        "http_requests_per_s": round(rate, 1),
        "http_ms_p50_64": round(statistics.median(many), 3),
        "http_ms_p99_64": round(float(np.percentile(many, 99)), 3),
        "http_ms_p50": round(statistics.median(alone), 3),
        "http_ms_p99": round(float(np.percentile(alone, 99)), 3),
    }


async def bench_image(model: Path, duration: float, rounds: int) -> dict[str, float]:
    """(b)."""
    inputs = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    session.run(None, {"data": inputs})
    added, alone, served = [], [], []
    with server(str(model)) as address:
        sent = request(address, model.stem, inputs)
        await load(address, sent, 1, duration / 2)
        for _ in range(rounds):
            without = bare(session, inputs, duration)
            _, latencies = await load(address, sent, 1, duration)
            added.append(statistics.median(latencies) - statistics.median(without))
            alone += without
            served += latencies
    return {
        "image_bare_ms_p50": round(statistics.median(alone), 3),
        "image_ms_p50": round(statistics.median(served), 3),
        "image_added_ms_p50": round(statistics.median(added), 3),
    }


async def main() -> None:
    """Run both and print, and write, the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of served and bare in (b) (default: 3)")
    options = parser.parse_args()
    results: dict[str, float | str] = {"machine": f"{os.cpu_count()} cores, {OnnxRuntime().device_kind}"}
    with tempfile.TemporaryDirectory() as directory:
        results |= await bench_small(build("mlp", Path(directory)), options.seconds)
        results |= await bench_image(build("squeezenet", Path(directory)), options.seconds, options.rounds)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    uvloop.run(main())
