"""Measure how punctual a worker is, how loads affect inferences, and the capacity of one controller.

    python benchmarks/bench_worker.py --json worker.json

This program is the controller of a ``clockwork worker`` process with one real device, which uses the last core. The
program itself does not use that core. ``fleet.py`` measures emulated devices. The two sides of a comparison are
measured in turns within one run. The keys are:

start_lateness_ms_p99_idle     time from ``earliest`` to the start of an Infer action, if the worker has no other work
start_lateness_ms_p99_busy     the same, with 2,000 other messages per second and repeated loads of a model
throughput_vs_bare             throughput of squeezenet, relative to a loop of bare ONNX Runtime on the same core
p99_ratio_while_loading        p99 of squeezenet while resnet50, densenet121 and vgg19 load and unload, relative to the
                               p99 without loads
load_vs_raw_session            time of LoadWeights of resnet50, relative to the creation of a plain session
within_estimate                share of Infer actions that took no longer than their estimate
estimate_over_actual_mean      mean of the estimate divided by the actual time
emulated_goodput               share of requests in time, for 32 emulated devices at 80 % of their capacity at batch
                               size 1
controller_us_per_request      CPU time of the controller's process in that run
worker_us_per_request          CPU time of the worker's process in that run
max_rate_99                    highest rate (requests/s) at which 99 % of the requests were in time
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import fleet
import numpy as np
import uvloop

from clockwork.client import AsyncClient
from clockwork.host.affinity import confined
from clockwork.host.process_tuning import shorten_time_slice
from clockwork.messages.actions import (
    Action,
    EvictWeights,
    GetWorkerState,
    Infer,
    InferInput,
    LoadModelFromDisk,
    LoadWeights,
)
from clockwork.messages.link import ROLE_WORKER
from clockwork.messages.results import ErrorResult, InferResult
from clockwork.messages.tensors import spec
from clockwork.net.address import Address
from clockwork.net.connection import Connection, LinkConfig
from clockwork.net.server import listen
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Nanos
from clockwork.wire.codec import decode_result
from clockwork.zoo import build

NETWORKS = ("squeezenet", "resnet50", "densenet121", "vgg19")
LOADED = NETWORKS[1:]
IMAGE = (spec("data", "FP32", (1, 3, 224, 224)),)
IMAGE_BYTES = bytes(IMAGE[0].nbytes)
DEVICE = max(os.sched_getaffinity(0))  # the core on which a worker puts its device
OTHERS = os.sched_getaffinity(0) - {DEVICE} or {DEVICE}
MESSAGES_PER_S = 2000
BATCH_1_PER_S = 1000 / 2.73  # size of resnet50-v100


class Controller:
    """The controller's side of a worker's connection. The controller sends actions and receives results."""

    def __init__(self) -> None:
        self._connected: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = 0

    def connected(self, connection: Connection) -> None:
        """Handle the connection of the worker."""
        self._connected.set_result(connection)

    def received(self, connection: Connection, message: Any, payload: Any) -> None:
        """Handle a result of the worker."""
        waiting = self._waiting.pop(message.id)
        if not waiting.done():
            waiting.set_result(message)

    async def meet(self) -> None:
        """Wait until the worker has connected."""
        self._connection = await asyncio.wait_for(self._connected, 30)

    def next_id(self) -> int:
        """Return a new id for an action."""
        self._ids += 1
        return self._ids

    def send(self, action: Action, *payload: bytes) -> "asyncio.Future[Any]":
        """Send an action, and return a future of its result."""
        waiting = self._waiting[action.id] = asyncio.get_running_loop().create_future()
        self._connection.send(action, payload)
        return waiting

    async def ask(self, action: Action, *payload: bytes) -> Any:
        """Send an action that must succeed, and return its result."""
        result = await self.send(action, *payload)
        if isinstance(result, ErrorResult):
            raise SystemExit(f"{action}: {result.message}")
        return result

    def infer(self, model: str, earliest: Nanos = 0) -> "asyncio.Future[InferResult]":
        """Send an Infer action with one image, and return a future of its result."""
        action = Infer(self.next_id(), 0, model, (InferInput(1, 1, IMAGE),), earliest)
        return self.send(action, IMAGE_BYTES)


@asynccontextmanager
async def a_worker(root: Path) -> AsyncIterator[Controller]:
    """Start a worker process. squeezenet is on its device, and the other networks are in host memory."""
    controller = Controller()
    server = await listen(
        Address("127.0.0.1", 0),
        role=ROLE_WORKER,
        decode=decode_result,
        on_connected=controller.connected,
        on_message=controller.received,
        on_closed=lambda connection, reason: None,
        config=LinkConfig(),
    )
    command = [fleet.CLOCKWORK, "worker", f"--controller={server.address}", f"--model-root={root}", "--log-level=error"]
    process = subprocess.Popen([*command, "--cache-size=4GiB"])  # noqa: ASYNC220 - no other task runs yet
    try:
        await controller.meet()
        for name in NETWORKS:
            await controller.ask(LoadModelFromDisk(controller.next_id(), f"{name}.onnx", name))
        await controller.ask(LoadWeights(controller.next_id(), 0, "squeezenet"))
        with confined(OTHERS):
            yield controller
    finally:
        process.terminate()
        process.wait()
        await server.close("the benchmark ends")


@asynccontextmanager
async def meanwhile(controller: Controller, *jobs: Any) -> AsyncIterator[None]:
    """Run tasks in the background until the context ends."""
    over = asyncio.Event()
    tasks = [asyncio.ensure_future(job(controller, over)) for job in jobs]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def load_and_unload(controller: Controller, over: asyncio.Event) -> None:
    """Load and unload the larger networks again and again."""
    while not over.is_set():
        for name in LOADED:
            await controller.ask(LoadWeights(controller.next_id(), 0, name))
            await controller.ask(EvictWeights(controller.next_id(), 0, name))


async def chatter(controller: Controller, over: asyncio.Event) -> None:
    """Send other messages that the worker must answer."""
    due = time.monotonic()
    while not over.is_set():
        controller.send(GetWorkerState(controller.next_id()))
        due += 1 / MESSAGES_PER_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def lateness(controller: Controller, count: int) -> list[float]:
    """Return the milliseconds from ``earliest`` to the start, for ``count`` Infer actions."""
    found = []
    for i in range(count):
        earliest = time.monotonic_ns() + (5 + i % 7) * MILLISECOND + i % 997 * MICROSECOND
        result = await controller.infer("squeezenet", earliest)
        found.append((result.exec.begin - earliest) / 1e6)
    return found


async def bench_lateness(controller: Controller, count: int) -> dict[str, float]:
    """Measure the lateness of starts on an idle and on a busy worker, in turns."""
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(4):
        idle += await lateness(controller, count // 4)
        async with meanwhile(controller, load_and_unload, chatter):
            busy += await lateness(controller, count // 4)
    return {
        "start_lateness_ms_p50_idle": p(idle, 50),
        "start_lateness_ms_p99_idle": p(idle, 99),
        "start_lateness_ms_p50_busy": p(busy, 50),
        "start_lateness_ms_p99_busy": p(busy, 99),
    }


async def back_to_back(controller: Controller, seconds: float, outstanding: int = 3) -> tuple[float, list[float]]:
    """Execute inferences without pauses. Return inferences per second, and the milliseconds of each."""
    took: list[float] = []
    begin = time.monotonic()
    ends = begin + seconds

    async def one_after_the_other() -> None:
        while time.monotonic() < ends:
            result = await controller.infer("squeezenet")
            took.append(result.exec.duration / 1e6)

    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    return len(took) / (time.monotonic() - begin), took


def bare_loop(session: onnxruntime.InferenceSession, seconds: float) -> float:
    """Return the inferences per second of bare ONNX Runtime on the device's core."""
    inputs = {"data": np.frombuffer(IMAGE_BYTES, np.float32).reshape(IMAGE[0].shape)}
    with confined({DEVICE}):
        begin = time.monotonic()
        count = 0
        while time.monotonic() < begin + seconds:
            session.run(None, inputs)
            count += 1
        return count / (time.monotonic() - begin)


async def bench_throughput(controller: Controller, root: Path, seconds: float, rounds: int) -> dict[str, float]:
    """Compare the worker with bare ONNX Runtime.

    Each turn of the worker is compared with the mean of the turns of ONNX Runtime before and after it.
    """
    session = raw_session(root / "squeezenet.onnx")
    bare_loop(session, seconds / 4)
    bare = [bare_loop(session, seconds)]
    ratios = []
    for _ in range(rounds):
        rate, _ = await back_to_back(controller, seconds)
        bare.append(bare_loop(session, seconds))
        ratios.append(rate / statistics.mean(bare[-2:]))
    return {
        "bare_per_s": round(statistics.median(bare), 1),
        "throughput_vs_bare": round(statistics.median(ratios), 4),
    }


async def latencies(controller: Controller, seconds: float) -> list[float]:
    """Return the latencies of squeezenet in ms, from sending an action to its result.

    One action is sent at a time, at two thirds of the device's capacity.
    """
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic_ns()
        await controller.infer("squeezenet")
        found.append((time.monotonic_ns() - begin) / 1e6)
        await asyncio.sleep(found[-1] / 2e3)
    return found


async def bench_loading(controller: Controller, seconds: float, rounds: int) -> dict[str, float]:
    """Measure the latency of squeezenet without loads and with loads, in turns."""
    alone: list[float] = []
    beside: list[float] = []
    ratios = []
    for _ in range(rounds):
        first = await latencies(controller, seconds)
        async with meanwhile(controller, load_and_unload):
            second = await latencies(controller, seconds)
        ratios.append(p(second, 99) / p(first, 99))
        alone += first
        beside += second
    return {
        "latency_ms_p99_alone": p(alone, 99),
        "latency_ms_p99_while_loading": p(beside, 99),
        "p50_ratio_while_loading": round(p(beside, 50) / p(alone, 50), 3),
        "p99_ratio_while_loading": round(statistics.median(ratios), 3),
    }


async def bench_load(controller: Controller, root: Path, rounds: int) -> dict[str, float]:
    """Measure LoadWeights and plain sessions in turns. Plain sessions are created on the core of the LOAD lane."""
    loads, raws = [], []
    for _ in range(rounds):
        result = await controller.ask(LoadWeights(controller.next_id(), 0, "resnet50"))
        loads.append(result.timing.duration / 1e6)
        await controller.ask(EvictWeights(controller.next_id(), 0, "resnet50"))
        begin = time.monotonic()
        raw_session(root / "resnet50.onnx")
        raws.append((time.monotonic() - begin) * 1e3)
    return {
        "load_ms": round(statistics.median(loads), 2),
        "raw_session_ms": round(statistics.median(raws), 2),
        "load_vs_raw_session": round(statistics.median(loads) / statistics.median(raws), 4),
    }


def raw_session(path: Path) -> onnxruntime.InferenceSession:
    """Create a plain session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


async def bench_estimates(root: Path, seconds: float) -> dict[str, float]:
    """Run a whole server at half of its capacity, and compare the estimates of its scheduler with the results."""
    command = [
        fleet.CLOCKWORK,
        "serve",
        "--listen=127.0.0.1:0",
        "--http=none",
        "--log-level=error",
        str(root / "squeezenet.onnx"),
    ]
    command.append("--no-profile-cache")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - no other task runs yet
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            async with AsyncClient(address) as client:
                return await _estimates(client, seconds)
        finally:
            process.terminate()


async def _estimates(client: AsyncClient, seconds: float) -> dict[str, float]:
    chance = np.random.default_rng(1)
    image = {"data": np.zeros((1, 3, 224, 224), np.float32)}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = await client.infer("squeezenet", image, slo=1.0)
        await asyncio.sleep(float(chance.exponential(result.timing.exec / SECOND)))
    predicted = (await client.status()).predictions["infer"]
    return {
        "within_estimate": round(predicted.within / predicted.duration.count, 4),
        "estimate_over_actual_mean": round(predicted.expected_over_actual, 4),
    }


def bench_emulated(seconds: float) -> dict[str, Any]:
    """Measure a load of 80 % of the capacity.

    Then raise the rate until less than 99 % of the requests are in time twice.
    """
    results: dict[str, Any] = {}
    with fleet.fleet(32) as running:
        at_80 = fleet.play(running, round(0.8 * 32 * BATCH_1_PER_S), seconds)
        results["emulated_rate"] = at_80["rate"]
        results["emulated_goodput"] = at_80["in_time_share"]
        results |= {key: at_80[key] for key in ("controller_us_per_request", "worker_us_per_request")}
    results["max_rate_99"] = 0
    rate = 5000.0
    while rate < 40_000:
        with fleet.fleet(32) as running:
            tries = (fleet.play(running, rate, seconds, seed)["in_time_share"] for seed in (1, 2))
            if not any(share >= 0.99 for share in tries):
                break
        results["max_rate_99"] = rate
        rate = round(rate * 1.1)
    return results


def p(values: list[float], percent: float) -> float:
    """Return a percentile."""
    return round(float(np.percentile(values, percent)), 4)


async def main() -> None:
    """Run all parts, or the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the two of a pair (default: 5)")
    parts = ("lateness", "throughput", "loading", "load", "estimates", "emulated")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="measure only this")
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {OnnxRuntime().device_kind}"}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in NETWORKS:
            build(name, root)
        if set(given.only) & {"lateness", "throughput", "loading", "load"}:
            async with a_worker(root) as controller:
                if "lateness" in given.only:
                    results |= await bench_lateness(controller, round(given.seconds * 200))
                if "throughput" in given.only:
                    results |= await bench_throughput(controller, root, given.seconds / 4, 5 * given.rounds)
                if "loading" in given.only:
                    results |= await bench_loading(controller, given.seconds, given.rounds)
                if "load" in given.only:
                    results |= await bench_load(controller, root, 2 * given.rounds)
        if "estimates" in given.only:
            results |= await bench_estimates(root, 5 * given.seconds)
    if "emulated" in given.only:
        results |= bench_emulated(2 * given.seconds)
    text = json.dumps(results, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    shorten_time_slice()  # a controller does this too
    with suppress(KeyboardInterrupt):
        uvloop.run(main())
    sys.stdout.flush()
