"""The live parts of ``bench_lifecycle.py``: a real server whose models change while it serves.

Requests are sent from a process on a core of its own, as an open loop of Poisson arrivals. Latencies count from the due
times. Each pair of numbers comes from one run of one server.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from serving import Bare, Served, p, serving

from clockwork import zoo
from clockwork.client.aio import AsyncClient
from clockwork.errors import UnknownModelError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.messages.requests import InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.units import SECOND

SLO: Final = 0.1
SERVED: Final = "squeezenet"
LOADED: Final = ("resnet50", "densenet121", "vgg19")
IMAGE: Final = (1, 3, 224, 224)
INPUTS: Final = (spec("data", "FP32", IMAGE),)
SETTLED_S: Final = 10.0
MAX_CHANGE_MB: Final = 1.0
"""A model is measured if the resident memory changes by at most ``MAX_CHANGE_MB`` in ``SETTLED_S`` seconds.

A server measures the larger batch sizes when no request has arrived for 5 s.
"""

WIDTH: Final = 64
"""Elements of a row of the models that are swapped."""


def networks(directory: Path, names: Sequence[str]) -> None:
    """Build networks of the zoo in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        zoo.build(name, directory)


def scale(factor: float, file: Path) -> None:
    """Write a model that multiplies its rows by a factor."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weight = numpy_helper.from_array(np.full((WIDTH, WIDTH), factor, "f4"), "w")
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])
    products = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "scale", [rows], [products], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


@contextmanager
def changing(directory: Path, cores: Sequence[int], here: int, *arguments: object) -> Iterator[Served]:
    """Run a server in the control mode ``explicit``, with models below ``directory``."""
    common = ("--model-control-mode=explicit", f"--model-repository={directory}", "--threads-per-device=1")
    with serving(*common, "--no-profile-cache", *arguments, on=cores, here={here}, session=True) as served:
        yield served


# --- one model is served while others are loaded ----------------------------------------------------------------------


class Answer(NamedTuple):
    """A response, the time when its request was due, and the latency from then in ms."""

    due: float
    ms: float
    response: InferResponse


@dataclass
class Loaded:
    """The loads so far, and the inferences of the loaded models as (begin, end)."""

    load_s: list[float] = field(default_factory=list)
    inferences: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0

    def executes(self, when: float) -> bool:
        """Return whether a loaded model was executed at a time, or will be within the SLO."""
        return any(begin - SLO <= when <= end for begin, end in self.inferences)


async def open_loop(client: AsyncClient, rate: float, seconds: float, seed: int) -> list[Answer]:
    """Send requests at a rate, and return their answers."""
    answers: list[Answer] = []
    draw = random.Random(seed)
    due = time.perf_counter()
    end = due + seconds

    async def one(due: float) -> None:
        response = await client.ask(SERVED, INPUTS, slo_ns=int(SLO * SECOND), generated=True)
        answers.append(Answer(due, (time.perf_counter() - due) * 1e3, response))

    async with asyncio.TaskGroup() as group:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
            due += draw.expovariate(rate)
    return answers


def outcomes(answers: list[Answer]) -> dict[str, Any]:
    """Summarise the answers of an open loop."""
    latencies = [answer.ms for answer in answers if answer.response.status == Status.SUCCESS]
    failed = [answer.response for answer in answers if answer.response.status != Status.SUCCESS]
    late = sum(latency > SLO * 1e3 for latency in latencies)
    return {
        "requests": len(answers),
        "in_time_share": round((len(latencies) - late) / max(1, len(answers)), 4),
        "ms_p50": round(statistics.median(latencies), 2) if latencies else None,
        "ms_p99": round(p(latencies, 99), 2) if latencies else None,
        "late": late,
        "broken_promises": sum(response.admitted for response in failed),
        "refused": sum(not response.admitted for response in failed),
        "broken": [response.message for response in failed if response.admitted][:10],
    }


async def _load_over_and_over(address: str, loaded: Loaded) -> None:
    async with AsyncClient(address) as client:
        while True:
            for name in LOADED:
                begin = time.perf_counter()
                await client.load(name, f"{name}.onnx")
                loaded.load_s.append(round(time.perf_counter() - begin, 2))
                begin = time.perf_counter()
                response = await client.ask(name, INPUTS, slo_ns=10 * SECOND, generated=True)
                loaded.inferences.append((begin, time.perf_counter()))
                loaded.failed += response.status != Status.SUCCESS
                await asyncio.sleep(1)
                await client.unload(name)


async def latency_while_loading(address: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Compare the p99 of one model at half the device's capacity with and without loads, in turns."""
    async with AsyncClient(address) as client:
        begin = time.perf_counter()
        for _ in range(100):
            await client.ask(SERVED, INPUTS, slo_ns=SECOND, generated=True)
        rate = 0.5 * 100 / (time.perf_counter() - begin)
        quiet: list[Answer] = []
        busy: list[Answer] = []
        loaded = Loaded()
        for turn in range(rounds):
            quiet += await open_loop(client, rate, seconds, turn)
            task = asyncio.create_task(_load_over_and_over(address, loaded))
            busy += await open_loop(client, rate, seconds, turn)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await _unload_all(client)
    without, while_loading = outcomes(quiet), outcomes(busy)
    failed = [answer for answer in busy if answer.response.status != Status.SUCCESS]
    while_loading["failed_beside_other_inferences"] = sum(loaded.executes(answer.due) for answer in failed)
    return {
        "p99_ratio_while_loading": _ratio(while_loading["ms_p99"], without["ms_p99"]),
        "goodput_ratio_while_loading": _ratio(while_loading["in_time_share"], without["in_time_share"]),
        "rate": round(rate, 1),
        "loads_s": loaded.load_s,
        "inferences_of_loaded_models_s": [round(end - begin, 2) for begin, end in loaded.inferences],
        "failed_inferences_of_loaded_models": loaded.failed,
        "without": without,
        "with": while_loading,
    }


def _ratio(value: float | None, base: float | None) -> float | None:
    """Return a ratio of two results, or None if no request succeeded."""
    return round(value / base, 3) if value is not None and base else None


async def _unload_all(client: AsyncClient) -> None:
    """Unload what a cancelled round may have left; a load that is under way is finished first."""
    for name in LOADED:
        with suppress(UnknownModelError):
            await client.unload(name)


def bench_latency(directory: Path, cores: Sequence[int], here: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Run `latency_while_loading` on a new server."""
    networks(directory, (SERVED, *LOADED))
    with changing(directory, cores, here, f"--load-model={SERVED}") as served:
        return asyncio.run(latency_while_loading(served.native, seconds, rounds))


# --- how soon a model is ready ----------------------------------------------------------------------------------------


def bench_ready(directory: Path, cache: Path, cores: Sequence[int], here: int) -> dict[str, Any]:
    """Measure the time until resnet50 is ready, with a cold and a warm cache, and that of bare ONNX Runtime."""
    networks(directory, (SERVED, "resnet50"))
    with changing(directory, cores, here, f"--load-model={SERVED}", f"--model-cache={cache}") as served:
        cold, warm = asyncio.run(_ready(served.native))
    image = np.zeros(IMAGE, "f4")
    begin = time.perf_counter()
    bare = Bare(directory / "resnet50.onnx", {"data": image})
    for size in (2, 4, 8, 16):
        bare.once({"data": np.repeat(image, size, 0)})
    plain = time.perf_counter() - begin
    return {
        "load_to_ready_s": round(cold, 2),
        "load_to_ready_warm_s": round(warm, 2),
        "bare_s": round(plain, 2),
        "cold_ratio": round(cold / plain, 2),
    }


async def _ready(address: str) -> tuple[float, float]:
    async with AsyncClient(address) as client:
        times = []
        for _ in range(2):
            begin = time.perf_counter()
            await client.load("resnet50", "resnet50.onnx")
            times.append(time.perf_counter() - begin)
            await asyncio.sleep(5)  # the larger batch sizes are measured
            await client.unload("resnet50")
    return times[0], times[1]


# --- swaps under load over three protocols ----------------------------------------------------------------------------


class _Asker:
    """Sends requests one after the other over one protocol, and checks each answer."""

    def __init__(self, protocol: str, served: Served) -> None:
        self.protocol = protocol
        self.served = served
        self.done = 0
        self.failed: list[str] = []
        self.wrong = 0
        self.stale = 0
        self.factors: tuple[float, ...] = ()
        self.since: float = 0.0  #: requests sent after this time must be executed by the newest version

    def check(self, sent: float, answer: np.ndarray) -> None:
        """Check an answer to a row of ones."""
        self.done += 1
        exact = [factor for factor in self.factors if np.array_equal(answer, np.full(WIDTH, factor * WIDTH, "f4"))]
        self.wrong += not exact
        self.stale += bool(exact) and exact[0] != self.factors[-1] and sent > self.since

    async def run(self, stop: asyncio.Event) -> None:
        """Send requests until the event is set."""
        ask = {"native": self._native, "http": self._http, "grpc": self._grpc}[self.protocol]
        await ask(stop)

    async def _native(self, stop: asyncio.Event) -> None:
        ones = np.ones((1, WIDTH), "f4")
        async with AsyncClient(self.served.native) as client:
            while not stop.is_set():
                sent = time.perf_counter()
                try:
                    result = await client.infer("swapped", {"x": ones}, slo=1.0)
                except Exception as error:  # noqa: BLE001 - every failure counts
                    self.failed.append(str(error)[:100])
                    continue
                self.check(sent, result["y"][0])
                await asyncio.sleep(0.002)

    async def _http(self, stop: asyncio.Event) -> None:
        host, _, port = self.served.http.rpartition(":")
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [1.0] * WIDTH}
        body = json.dumps({"inputs": [tensor], "parameters": {"timeout": 1_000_000}})  # microseconds
        head = f"POST /v2/models/swapped/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        while not stop.is_set():
            sent = time.perf_counter()
            writer.write(head.encode() + body.encode())
            status = await reader.readline()
            length = 0
            while (line := await reader.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answer = json.loads(await reader.readexactly(length))
            if b" 200 " not in status:
                self.failed.append(str(answer)[:100])
                continue
            self.check(sent, np.array(answer["outputs"][0]["data"], "f4"))
            await asyncio.sleep(0.002)
        writer.close()

    async def _grpc(self, stop: asyncio.Event) -> None:
        tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, WIDTH])
        message = pb.ModelInferRequest(
            model_name="swapped", inputs=[tensor], raw_input_contents=[np.ones(WIDTH, "f4").tobytes()]
        )
        async with grpc.aio.insecure_channel(self.served.grpc) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            while not stop.is_set():
                sent = time.perf_counter()
                try:
                    answer = await infer(message, timeout=1.0)
                except grpc.aio.AioRpcError as error:
                    self.failed.append(str(error.details())[:100])
                    continue
                self.check(sent, np.frombuffer(answer.raw_output_contents[0], "f4"))
                await asyncio.sleep(0.002)


async def _swap(served: Served, swaps: int) -> dict[str, Any]:
    askers = [_Asker(protocol, served) for protocol in ("native", "http", "grpc")]
    stop = asyncio.Event()
    times = []
    async with AsyncClient(served.native) as client, asyncio.TaskGroup() as group:
        await client.load("swapped", "swapped/1")
        for asker in askers:
            asker.factors = (1.0,)
            group.create_task(asker.run(stop))
        for swap in range(swaps):
            newest = 2 - swap % 2
            for asker in askers:
                asker.factors, asker.since = (*asker.factors[-1:], float(newest)), float("inf")
            begin = time.perf_counter()
            await client.load("swapped", f"swapped/{newest}")
            times.append(time.perf_counter() - begin)
            for asker in askers:
                asker.since = time.perf_counter()
            await asyncio.sleep(2 * SLO)
        stop.set()
    failures = [text for asker in askers for text in asker.failed]
    return {
        "swaps": swaps,
        "requests": sum(asker.done for asker in askers),
        "failed": len(failures),
        "refused_by_swap": sum("deadline" in text or "SLO" in text for text in failures),
        "wrong": sum(asker.wrong for asker in askers),
        "old_after_swap": sum(asker.stale for asker in askers),
        "swap_s_median": round(statistics.median(times), 2),
        "reasons": failures[:5],
    }


def bench_swaps(directory: Path, cores: Sequence[int], here: int, swaps: int) -> dict[str, Any]:
    """Swap two versions of a model while it is requested over three protocols, and check every answer."""
    for number in (1, 2):
        scale(float(number), directory / "swapped" / str(number) / "model.onnx")
    protocols = ("--http=127.0.0.1:0", "--grpc=127.0.0.1:0")
    with changing(directory, cores, here, *protocols) as served:
        return asyncio.run(_swap(served, swaps))


# --- memory -----------------------------------------------------------------------------------------------------------


async def _cycles(served: Served, cycles: int) -> dict[str, Any]:
    ones = np.ones((1, WIDTH), "f4")
    memory: dict[int, float] = {}
    async with AsyncClient(served.native) as client:
        await client.load(SERVED, f"{SERVED}.onnx")
        await _until_measured(served)
        await client.unload(SERVED)
        for cycle in range(1, cycles + 1):
            number = cycle % 3 + 1
            await client.load(f"cycled{number}", f"cycled/{number}")
            await client.infer(f"cycled{number}", {"x": ones}, slo=1.0)
            await client.load(SERVED, f"{SERVED}.onnx")
            await client.ask(SERVED, INPUTS, slo_ns=SECOND, generated=True)
            await client.unload(f"cycled{number}")
            await client.unload(SERVED)
            if cycle in (20, cycles):
                memory[cycle] = served.resident_mb()
    growth = memory[cycles] / memory[20] - 1
    return {"cycles": cycles, "rss_mb": memory, "rss_growth_share": round(growth, 4)}


async def _until_measured(served: Served) -> None:
    """Wait until the larger batch sizes of a loaded model are measured, because a device keeps the memory for them.

    Without this wait, they would be measured during any of the cycles.
    """
    before = 0.0
    while abs(served.resident_mb() - before) > MAX_CHANGE_MB:
        before = served.resident_mb()
        await asyncio.sleep(SETTLED_S)


def bench_memory(directory: Path, cores: Sequence[int], here: int, cycles: int) -> dict[str, Any]:
    """Load, execute and unload models over and over, and compare the resident memory."""
    networks(directory, (SERVED,))
    for number in (1, 2, 3):
        scale(float(number), directory / "cycled" / str(number) / "model.onnx")
    with changing(directory, cores, here, f"--model-cache={directory.parent / 'cache'}") as served:
        return asyncio.run(_cycles(served, cycles))
