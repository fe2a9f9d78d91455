"""The live parts of ``bench_fleet.py``: processes of a fleet are killed or restarted while clients send requests.

The fleet has one controller, with ``--state-dir``, and two workers. This process sends an open loop of Poisson arrivals
over one connection of the native protocol, and connects again when the connection ends.
"""

import asyncio
import json
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from lifecycle_live import WIDTH, scale
from serving import CLOCKWORK, STOP_LIMIT, p

from clockwork import __version__
from clockwork.client.aio import AsyncClient
from clockwork.errors import ClockworkError, ConnectionLostError
from clockwork.messages.link import ROLE_CLIENT, Hello
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.net.address import parse_address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.units import MILLISECOND, SECOND
from clockwork.wire.codec import decode_response

START_LIMIT: Final = 120.0
"""Longest time in seconds until a fleet serves."""

GIVE_UP: Final = 30.0
"""Time in seconds after which a request without a final answer counts as lost."""

PAUSE: Final = 0.02
"""Time in seconds until a client without a connection connects again, and until it repeats a request."""

REPEATED: Final = (Status.SHUTTING_DOWN, Status.INITIALIZING, Status.SKIPPED_BY_CONTROLLER)
"""Statuses of responses that ask a client to send the request again while a server restarts."""

WORKERS: Final = ("w0", "w1")
SLO_S: Final = 0.5
EMULATED: Final = "slow"
INFER_MS: Final = {1: 27.3, 2: 40.5, 4: 58.8, 8: 99.3, 16: 173.3}
"""Times of the emulated model by batch size. Ten times the times of the ResNet-50 of the paper need a tenth of the
requests for the same load.
"""

CAPACITY: Final = 16 / 0.1733
"""Requests per second that an emulated device executes in full batches."""

STEP: Final = 0.05
"""Precision in seconds of the time until full goodput."""

FULL: Final = 0.99
"""Share of the requests of a second that must be in time for full goodput."""


def free_address() -> str:
    """Return an address with a free port, which a restarted process can use again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class Fleet:
    """A controller and its workers, each a process of its own."""

    def __init__(self, directory: Path, controller: Sequence[str], worker: Sequence[str]) -> None:
        """``controller`` and ``worker`` are the additional arguments of the commands."""
        self.address, self._workers_at = free_address(), free_address()
        self._directory = directory
        self._controller, self._worker = controller, worker
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_controller(self) -> None:
        """Start the controller, which finds its models in its state directory or in its arguments."""
        self._start(
            "controller",
            *("controller", f"--listen={self.address}", f"--worker-listen={self._workers_at}", "--http=none"),
            *(f"--state-dir={self._directory / 'state'}", f"--workers={len(WORKERS)}", *self._controller),
        )

    def start_worker(self, name: str) -> None:
        """Start a worker."""
        self._start(name, "worker", f"--controller={self._workers_at}", f"--name={name}", *self._worker)

    def _start(self, name: str, *arguments: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [CLOCKWORK, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        self._running[name].send_signal(number)

    async def ended(self, name: str) -> int:
        """Wait until a process has ended, and return its exit code."""
        return await asyncio.to_thread(self._running[name].wait, STOP_LIMIT)

    def stop(self) -> None:
        """Kill all processes."""
        for process in self._running.values():
            process.kill()
            process.wait()

    async def ready(self, *names: str) -> float:
        """Wait until the server serves from these workers. Return the time."""
        end = time.perf_counter() + START_LIMIT
        while time.perf_counter() < end:
            with suppress(ClockworkError, OSError):
                async with AsyncClient(self.address, connect_timeout=1) as client:
                    while time.perf_counter() < end:
                        found = await client.status()
                        if found.ready and {worker.id for worker in found.workers if worker.ready} >= set(names):
                            return time.perf_counter()
                        await asyncio.sleep(PAUSE)
            await asyncio.sleep(PAUSE)
        raise SystemExit(f"the fleet does not serve after {START_LIMIT:.0f} s; its logs are in {self._directory}")


@contextmanager
def running(controller: Sequence[str], worker: Sequence[str], directory: Path) -> Iterator[Fleet]:
    """Run a fleet until the context ends. Its logs and its state are in ``directory``."""
    with ExitStack() as stack:
        fleet = Fleet(directory, controller, worker)
        stack.callback(fleet.stop)
        fleet.start_controller()
        for name in WORKERS:
            fleet.start_worker(name)
        yield fleet


@contextmanager
def emulated_fleet(models: int, devices: int) -> Iterator[Fleet]:
    """Run a fleet with this number of models, and of emulated devices of each worker."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        worker = (f"--emulate={devices}", f"--profile={slow_profile(directory)}")
        with running(
            (f"{EMULATED}:{models}", "--load-timeout=1s", "--profile-seconds=0.1"), worker, directory
        ) as fleet:
            yield fleet


@dataclass
class Sent:
    """A request: when it was due, and what became of it. Times are in seconds of the performance counter."""

    due: float
    attempts: int = 0
    begun: float = 0.0  #: when the last attempt was sent
    ended: float = 0.0
    response: InferResponse | None = None
    right: bool = True  #: whether the outputs are those of this request

    @property
    def outcome(self) -> str:
        """The outcome at the client."""
        if self.response is None:
            return "lost"
        if self.response.status == Status.SUCCESS:
            if not self.right:
                return "wrong"
            return "in_time" if self.ended - self.begun <= SLO_S else "late"
        return "failed" if self.response.admitted or self.response.status == Status.ERROR else "refused"


@dataclass
class Load:
    """An open loop of requests.

    ``request`` returns a request with an id and its payload, and ``check`` whether the outputs belong to the request.
    """

    address: str
    rate: float
    request: Callable[[int], tuple[InferRequest, bytes]]
    check: Callable[[int, bytes], bool]
    repeats: bool = True  #: whether a client repeats a request that the server or the connection did not finish
    sent: list[Sent] = field(default_factory=list)
    double: int = 0  #: number of responses to requests that had a response already
    _connection: Connection | None = None
    _waiting: dict[int, asyncio.Future[tuple[InferResponse, bytes]]] = field(default_factory=dict)
    _last_id: int = 0

    async def run(self, during: Callable[[], Awaitable[None]]) -> None:
        """Send requests until ``during`` has ended. Wait until each request has its final answer."""
        keeper = asyncio.create_task(self._keep_connected())
        draw = random.Random(1)
        script = asyncio.ensure_future(during())
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while not script.done():
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                sent = Sent(due)
                self.sent.append(sent)
                group.create_task(self._serve(len(self.sent), sent))
                due += draw.expovariate(self.rate)
        keeper.cancel()
        await script

    async def _serve(self, number: int, sent: Sent) -> None:
        """Send a request, and repeat it until it has a final answer."""
        while time.perf_counter() < sent.due + GIVE_UP:
            sent.attempts += 1
            sent.begun = time.perf_counter()
            try:
                response, payload = await self._ask(number)
            except ConnectionLostError:
                if not self.repeats and sent.attempts > 1:
                    return
                await asyncio.sleep(PAUSE)
                continue
            sent.ended = time.perf_counter()
            sent.response = response
            sent.right = response.status != Status.SUCCESS or self.check(number, bytes(payload))
            if not self.repeats or response.status not in REPEATED:
                return
            await asyncio.sleep(PAUSE)

    async def _ask(self, number: int) -> tuple[InferResponse, bytes]:
        connection = self._connection
        if connection is None:
            raise ConnectionLostError("not connected")
        request, payload = self.request(number)
        self._last_id += 1
        made = InferRequest(
            self._last_id,
            request.model,
            request.inputs,
            request.slo,
            generated=request.generated,
            request_id=f"request-{number}",
        )
        future = self._waiting[self._last_id] = asyncio.get_running_loop().create_future()
        connection.send(made, [payload] if payload else [])
        response, outputs = await future
        return response, outputs

    async def _keep_connected(self) -> None:
        hello = Hello(ROLE_CLIENT, "", f"clockwork {__version__}")
        while True:
            if self._connection is None:
                with suppress(ConnectionLostError):
                    self._connection = await dial(
                        parse_address(self.address, 0),
                        hello,
                        decode=decode_response,
                        on_message=self._received,
                        on_closed=self._closed,
                    )
            await asyncio.sleep(PAUSE)

    def _received(self, connection: Connection, message: Any, payload: Any) -> None:
        future = self._waiting.pop(message.id, None)
        if future is None:
            self.double += 1
        elif not future.done():
            future.set_result((message, payload))

    def _closed(self, connection: Connection, reason: str) -> None:
        self._connection = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionLostError(reason))

    def counts(self) -> dict[str, Any]:
        """Return the number of requests for each outcome."""
        found = Counter(sent.outcome for sent in self.sent)
        succeeded = found["in_time"] + found["late"]
        latencies = [(sent.ended - sent.begun) * 1e3 for sent in self.sent if sent.outcome in ("in_time", "late")]
        return {
            "requests": len(self.sent),
            **{outcome: found[outcome] for outcome in ("in_time", "refused", "failed", "late", "wrong", "lost")},
            "double": self.double,
            "late_share": round(found["late"] / max(1, succeeded), 5),
            "repeated": sum(sent.attempts > 1 for sent in self.sent),
            "ms_p50": p(latencies, 50),
            "ms_p99": p(latencies, 99),
        }

    def full_goodput_after(self, begin: float) -> float | None:
        """Return the seconds from ``begin`` until the first second whose requests are in time, or None."""
        due, in_time = Counter[int](), Counter[int]()
        for sent in self.sent:
            step = int((sent.due - begin) / STEP)
            due[step] += 1
            in_time[step] += sent.outcome == "in_time"
        steps = round(1 / STEP)
        for first in range(max(due) - steps):
            second = range(first, first + steps)
            if sum(in_time[step] for step in second) >= FULL * sum(due[step] for step in second):
                return round(first * STEP, 2)
        return None


def slow_profile(directory: Path) -> Path:
    """Write the profile of a model that takes ten times as long as the ResNet-50 of the paper, and has small inputs."""

    def tensor(name: str) -> dict[str, Any]:
        return {"name": name, "datatype": "FP32", "shape": [-1, 8]}

    info = {"name": EMULATED, "digest": "slow", "batchable": True, "weights_pages": 1}
    ports = {"inputs": [tensor("x")], "outputs": [tensor("y")]}
    infer = {size: {"samples": [round(ms * MILLISECOND)]} for size, ms in INFER_MS.items()}
    profile = {"load_weights": {"samples": [30 * MILLISECOND]}, "infer": infer}
    file = directory / "slow.json"
    file.write_text(json.dumps({"models": [{"info": info | ports, "profiles": {"emulated": profile}}]}))
    return file


def emulated_request(models: int) -> Callable[[int], tuple[InferRequest, bytes]]:
    """Return a function that makes requests to the copies of the emulated model. The worker generates the inputs."""
    inputs = (spec("x", "FP32", (1, 8)),)

    def request(number: int) -> tuple[InferRequest, bytes]:
        model = f"{EMULATED}-{number % models + 1}"
        return InferRequest(0, model, inputs, int(SLO_S * SECOND), generated=True), b""

    return request


def anything(number: int, payload: bytes) -> bool:
    """Accept all outputs."""
    return True


async def worker_killed(seconds: float) -> dict[str, Any]:
    """Kill one of two workers at 60 % of the capacity of both, and start it again after ``seconds``.

    Each worker has one emulated device.
    """
    with emulated_fleet(15, 1) as fleet:
        await fleet.ready(*WORKERS)
        load = Load(fleet.address, 0.6 * len(WORKERS) * CAPACITY, emulated_request(15), anything, repeats=False)
        at: dict[str, float] = {}

        async def script() -> None:
            await asyncio.sleep(seconds)
            at["killed"] = time.perf_counter()
            fleet.send(WORKERS[1], signal.SIGKILL)
            await fleet.ended(WORKERS[1])
            await asyncio.sleep(seconds)
            at["started"] = time.perf_counter()
            fleet.start_worker(WORKERS[1])
            at["ready"] = await fleet.ready(*WORKERS)
            await asyncio.sleep(seconds)

        await load.run(script)
    failed = [sent for sent in load.sent if sent.outcome == "failed"]
    in_flight = [sent for sent in load.sent if sent.begun <= at["killed"] < sent.ended]
    return {
        **load.counts(),
        "in_flight_at_the_kill": len(in_flight),
        "failed_in_flight": sum(sent.begun <= at["killed"] < sent.ended for sent in failed),
        "failed_before_the_kill": sum(sent.ended <= at["killed"] for sent in failed),
        "failed_after_the_kill": sum(sent.begun > at["killed"] for sent in failed),
        "ready_after_start_s": round(at["ready"] - at["started"], 2),
        "full_goodput_after_start_s": load.full_goodput_after(at["started"]),
        "full_goodput_after_ready_s": load.full_goodput_after(at["ready"]),
    }


async def controller_killed(models: int) -> dict[str, Any]:
    """Kill the controller of a warm fleet with many models, and start it again."""
    with emulated_fleet(models, 2) as fleet:
        await fleet.ready(*WORKERS)
        await all_served(fleet.address, models)
        fleet.send("controller", signal.SIGKILL)
        await fleet.ended("controller")
        begin = time.perf_counter()
        fleet.start_controller()
        first = await all_served(fleet.address, models)
    return {
        "models": models,
        "first_success_after_start_s": round(first - begin, 2),
        "all_models_after_start_s": round(time.perf_counter() - begin, 2),
    }


async def all_served(address: str, models: int) -> float:
    """Send requests until each model has answered one of them. Return the time of the first success."""
    ask = emulated_request(models)
    missing = set(range(models))
    first = 0.0
    end = time.perf_counter() + START_LIMIT
    while missing and time.perf_counter() < end:
        with suppress(ClockworkError, OSError):
            async with AsyncClient(address, connect_timeout=1) as client:
                for number in sorted(missing):
                    request, _ = ask(number)
                    response = await client.ask(request.model, request.inputs, slo_ns=request.slo, generated=True)
                    if response.status != Status.SUCCESS:
                        break
                    first = first or time.perf_counter()
                    missing.discard(number)
        await asyncio.sleep(PAUSE)
    if missing:
        raise SystemExit(f"{len(missing)} models do not answer after {START_LIMIT:.0f} s")
    return first


async def rolling_restart(rate: float, pause: float) -> dict[str, Any]:
    """Restart all processes one after the other under load: the workers, then the controller.

    The workers execute real networks, which multiply their input by a factor. Each request has another input, so a
    response with the outputs of another request is noticed.
    """
    factors = (2.0, 3.0, 5.0, 7.0)
    inputs = (spec("x", "FP32", (1, WIDTH)),)

    def request(number: int) -> tuple[InferRequest, bytes]:
        values = np.full((1, WIDTH), number, "f4")
        values[0, 1:] = 0
        return InferRequest(0, f"m{number % len(factors)}", inputs, int(SLO_S * SECOND)), values.tobytes()

    def check(number: int, payload: bytes) -> bool:
        found = np.frombuffer(payload, "f4")
        return len(found) == WIDTH and bool(np.all(found == np.float32(number) * factors[number % len(factors)]))

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "models"
        for at, factor in enumerate(factors):
            scale(factor, root / f"m{at}.onnx")
        names = [f"m{at}.onnx" for at in range(len(factors))]
        worker = (f"--model-root={root}", "--threads-per-device=1")
        with running((*names, "--load-timeout=1s"), worker, Path(directory)) as fleet:
            await fleet.ready(*WORKERS)
            load = Load(fleet.address, rate, request, check)
            took: dict[str, float] = {}

            async def script() -> None:
                await asyncio.sleep(pause)
                for name in (*WORKERS, "controller"):
                    begin = time.perf_counter()
                    fleet.send(name, signal.SIGTERM)
                    assert await fleet.ended(name) == 0, name
                    if name == "controller":
                        fleet.start_controller()
                    else:
                        fleet.start_worker(name)
                    took[name] = round(await fleet.ready(*WORKERS) - begin, 2)
                    await asyncio.sleep(pause)

            await load.run(script)
    messages = Counter(
        sent.response.message[:100] for sent in load.sent if sent.response and sent.response.status != Status.SUCCESS
    )
    return {**load.counts(), "restart_s": took, "messages": dict(messages.most_common(5))}


LIVE: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "worker_killed": lambda: asyncio.run(worker_killed(8.0)),
    "controller_killed": lambda: asyncio.run(controller_killed(100)),
    "rolling_restart": lambda: asyncio.run(rolling_restart(200.0, 3.0)),
}
"""The live parts by name."""
