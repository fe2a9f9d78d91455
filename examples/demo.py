"""The demo.

The demo serves four real networks, classifies files with one of them, runs a load test, and reports the result.

1. Build three networks of the zoo. The fourth network, from the package magika, is trained to recognise types of files.
2. Start ``clockwork serve`` and show its stages: querying, loading, profiling, serving.
3. Classify files of this repository with magika's network, each three times: with Clockwork's client, and with Triton's
   clients over HTTP and gRPC. Compare the labels with the expected ones.
4. Send requests with Poisson arrivals to all four networks for 15 s, at half of the device's measured capacity. Each
   model gets an equal share of the device's time. Every request has an SLO of 250 ms, which counts from its due time.
5. If requests were late, measure what disturbs this machine, with the checks of ``clockwork check-env``.

The exit code is 0 if every label is right in every protocol, and if every request gets one response and does not fail.
It is 1 if more requests were late than the measured disturbance of the machine explains. A refused request is not late,
because the server refuses requests that it cannot finish in time.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import re
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from clockwork import (
    AsyncClient,
    ClockworkError,
    ConnectionLostError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerStatus,
    zoo,
)
from clockwork.clock import process_time
from clockwork.environment.checks import check
from clockwork.environment.facts import Environment
from clockwork.environment.kernel_files import read_counters
from clockwork.environment.measurement import examine
from clockwork.messages.findings import Finding, Level
from clockwork.scheduling.clockwork.refusals import ADMITTED

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "build/demo/serve.log"
ZOO = ("squeezenet", "shufflenet", "resnet50")
OPTIONS = (
    "--listen=127.0.0.1:0",
    "--http=127.0.0.1:0",
    "--grpc=127.0.0.1:0",
    "--max-batch=4",
    "--profile-seconds=0.5",
    "--profile-cache=build/demo/profiles",
)

SECONDS = 15.0
LOAD = 0.5  # share of the device's time that the requests need
SLO = 0.250  # seconds
MAX_LATE = 0.01  # share of the requests that may be late on a machine without disturbance
CHECK_SECONDS = 4.0  # duration of the measurement of the machine
SEED = 2020
ANSWERS = ("in time", "late", "refused", "failed")
CAUSES = ("interruptions", "other processes", "steal", "timers", "clock source", "cpu quota", "swap")

EXPECTED = {
    ".ci/run": "shell",
    ".gitignore": "ignorefile",
    "ARCHITECTURE.md": "markdown",
    "LICENSE": "txt",
    "Makefile": "makefile",
    "README.md": "markdown",
    "build/zoo/squeezenet.onnx": "onnx",
    "examples/demo.py": "python",
    "pyproject.toml": "toml",
    "src/clockwork/controller/startup.py": "python",
    "src/clockwork/units.py": "python",
    "tests/test_tidy.py": "python",
}

console = Console(highlight=False)

Inputs = dict[str, NDArray[Any]]
Scores = Callable[
    [NDArray[np.int32]], Awaitable[NDArray[np.float32]]
]  # maps the features of a file to scores of the labels


class DemoError(Exception):
    """An error after which the demo cannot continue."""


@dataclass
class Server:
    """A running process of ``clockwork serve``."""

    process: asyncio.subprocess.Process
    address: asyncio.Future[str]  # the address, which is known when the server listens
    serving: asyncio.Future[str]  # the line that the server prints when it begins to serve
    others: dict[str, str] = field(default_factory=dict)  # the addresses of HTTP and gRPC


@asynccontextmanager
async def serve(*models: str) -> AsyncIterator[Server]:
    """Start a server, which ends when the context ends."""
    program = Path(sys.executable).with_name("clockwork")
    command = [str(program)] if program.exists() else [sys.executable, "-m", "clockwork.cli"]
    arguments = ("serve", *models, *OPTIONS)
    console.print(f"[bold]$ clockwork {' '.join(arguments)}[/]", soft_wrap=True)
    process = await asyncio.create_subprocess_exec(*command, *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    loop = asyncio.get_running_loop()
    server = Server(process, loop.create_future(), loop.create_future())
    readers = asyncio.gather(follow_log(server), await_serving(server))
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await readers


async def follow_log(server: Server) -> None:
    """Write the server's log to a file, and show the stages and the measured times."""
    assert server.process.stderr is not None
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb", buffering=0) as file:
        async for line in server.process.stderr:
            file.write(line)
            text = line.decode(errors="replace").rstrip()
            if found := re.search(r"listening for clients on ([^\s,]+)", text):
                server.address.set_result(found[1])
                console.print("  [dim]stage: querying[/]")
            if found := re.search(r"clockwork\.controller: ((?:stage|measured)\b.*)", text):
                console.print(f"  [dim]{found[1]}[/]", soft_wrap=True)


async def await_serving(server: Server) -> None:
    """Read the addresses of the protocols, and wait for the line that the server prints when it begins to serve."""
    assert server.process.stdout is not None
    async for line in server.process.stdout:
        text = line.decode().rstrip()
        if found := re.fullmatch(r"clockwork serves (\w+) on (\S+)", text):
            server.others[found[1]] = found[2]
        else:
            server.serving.set_result(text)
    await server.process.wait()
    for future in (server.address, server.serving):
        if not future.done():
            future.set_exception(DemoError(f"the server ended before it served; its log is {LOG}"))
            future.exception()  # prevents a message of asyncio if no task waits for this future


async def show_startup(server: Server, bar: Progress) -> None:
    """Show the server's progress until it serves."""
    task = bar.add_task("starting", total=None)
    with contextlib.suppress(ConnectionLostError):  # `await_serving` reports that the server ended
        async with AsyncClient(await server.address) as client:
            while not server.serving.done():
                status = await client.status()
                progress = status.progress
                bar.update(task, description=status.stage, completed=progress.done, total=progress.total or None)
                await asyncio.wait([server.serving], timeout=0.1)
    bar.remove_task(task)
    console.print(f"[bold]{await server.serving}[/]")
    console.print(dashboard(server), soft_wrap=True)


def dashboard(server: Server) -> str:
    """Return a line with the address of the server's dashboard."""
    return f"While the demo runs, the dashboard at [bold]http://{server.others['HTTP']}/[/] shows what the server does."


def magika(file: str) -> str:
    """Return the path of the network in the package magika, relative to `ROOT`."""
    found = importlib.util.find_spec("magika")
    for home in found.submodule_search_locations or [] if found is not None else []:
        for model in sorted(Path(home).glob("models/*/model.onnx")):
            return os.path.relpath(model.with_name(file), ROOT)
    raise DemoError("the package magika is not installed: run make demo, or pip install magika")


def features(file: Path) -> NDArray[np.int32]:
    """Return the features of a file that magika's network expects, as int32 of shape (1, 2048).

    The features are the first and last 1024 bytes of the stripped file. Missing bytes have the value 256.
    """
    with file.open("rb") as content:
        first = content.read(4096)
        content.seek(max(0, file.stat().st_size - 4096))
        last = content.read(4096)
    beginning, end = first.lstrip()[:1024], last.rstrip()[-1024:]
    row = np.full(2048, 256, np.int32)
    row[: len(beginning)] = np.frombuffer(beginning, np.uint8)
    row[2048 - len(end) :] = np.frombuffer(end, np.uint8)
    return row[np.newaxis]


@asynccontextmanager
async def asking(native: str, http: str, grpc: str) -> AsyncIterator[dict[str, Scores]]:
    """For each protocol, yield a function that queries magika's network. Each function has its own client."""
    import tritonclient.grpc.aio as triton_grpc
    import tritonclient.http.aio as triton_http

    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(AsyncClient(native))

        async def ask_own(row: NDArray[np.int32]) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = (await own.infer("magika", {"bytes": row}, slo=10.0))["target_label"][0]
            return scores

        async def ask_triton(triton: Any, client: Any, row: NDArray[np.int32]) -> NDArray[np.float32]:
            tensor = triton.InferInput("bytes", list(row.shape), "INT32")
            tensor.set_data_from_numpy(row)
            scores: NDArray[np.float32] = (
                await client.infer("magika", [tensor], parameters={"slo_ms": 10_000})
            ).as_numpy("target_label")[0]
            return scores

        ways: dict[str, Scores] = {"native": ask_own}
        for name, triton, address in (("HTTP", triton_http, http), ("gRPC", triton_grpc, grpc)):
            client = await stack.enter_async_context(triton.InferenceServerClient(address))
            ways[name] = partial(ask_triton, triton, client)
        yield ways


async def label(file: Path, ways: dict[str, Scores]) -> dict[str, tuple[str, float]]:
    """Return the file's label and the label's score for each protocol."""
    labels = json.loads((ROOT / magika("config.min.json")).read_text())["target_labels_space"]
    found = {name: await ask(features(file)) for name, ask in ways.items()}
    return {name: (labels[scores.argmax()], float(scores.max())) for name, scores in found.items()}


async def label_files(ways: dict[str, Scores], bar: Progress) -> int:
    """Classify the files of `EXPECTED`, show the labels, and return the number of files whose labels are right."""
    table = Table("file", *ways, "score", "", box=None, header_style="bold", pad_edge=False)
    right = 0
    for file, expected in bar.track(EXPECTED.items(), description="labelling files"):
        found = await label(ROOT / file, ways)
        good = {name for name, _ in found.values()} == {expected}
        right += good
        verdict = "[green]right[/]" if good else f"[red]expected {expected}[/]"
        table.add_row(file, *(name for name, _ in found.values()), f"{found['native'][1]:.3f}", verdict)
    console.print(table)
    return right


@dataclass
class Tally:
    """The outcomes of one model's requests. Only requests in time have latencies, which are in seconds."""

    model: str
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)


def answered(status: ServerStatus) -> int:
    """Return the number of requests that the server has answered."""
    return sum(model.in_time + model.late + model.refused + model.failed for model in status.models)


def rates(status: ServerStatus) -> dict[str, float]:
    """Return the request rate of each model. All models need the same share of the device's time, in total `LOAD`."""
    seconds = {it.info.name: profile.infer[1].median / 1e9 for it in status.models for profile in it.profiles.values()}
    return {model: LOAD / len(seconds) / each for model, each in seconds.items()}


def arrivals(wanted: dict[str, float]) -> list[tuple[float, str]]:
    """Return Poisson arrivals of all models in order.

    An arrival is a pair: the time after the start in seconds, and the model.
    """
    chance = random.Random(SEED)
    made = []
    for model, rate in wanted.items():
        at = chance.expovariate(rate)
        while at < SECONDS:
            made.append((at, model))
            at += chance.expovariate(rate)
    return sorted(made)


def outcome_of(error: ClockworkError) -> str:
    """Return the outcome of a request that ended with an error. A refusal after the admission is a broken promise."""
    if isinstance(error, RequestRefusedError):
        return "late" if str(error).startswith(ADMITTED) else "refused"
    return "late" if isinstance(error, RequestTimeoutError) else "failed"


async def ask(client: AsyncClient, inputs: Inputs, due: float, tally: Tally) -> None:
    """Send one request, and count its outcome. The latency of a request counts from its due time."""
    now = asyncio.get_running_loop().time
    try:
        result = await client.infer(tally.model, inputs, slo=max(0.001, SLO - (now() - due)))
    except ClockworkError as error:
        outcome = outcome_of(error)
        tally.outcomes[outcome] += 1
        if outcome == "failed" and tally.outcomes["failed"] == 1:
            console.print(f"[red]{tally.model}: {error}[/]")
        return
    latency = now() - due
    tally.outcomes["cold starts"] += result.timing.cold_start
    tally.outcomes["in time" if latency <= SLO else "late"] += 1
    if latency <= SLO:
        tally.latencies.append(latency)


async def load(client: AsyncClient, bar: Progress) -> list[Tally]:
    """Send the requests of `arrivals` when they are due, and wait for all responses."""
    wanted = rates(await client.status())
    image = np.random.default_rng(SEED).random((1, 3, 224, 224), np.float32)
    inputs: dict[str, Inputs] = {"magika": {"bytes": features(Path(__file__))}, **{it: {"data": image} for it in ZOO}}
    tallies = {name: Tally(name) for name in wanted}
    for name in wanted:
        await client.evict(name)  # the first request of each model must be a cold start
    schedule = arrivals(wanted)
    task = bar.add_task(f"{len(schedule) / SECONDS:.0f} requests/s", total=SECONDS)
    start = asyncio.get_running_loop().time() + 0.05
    async with asyncio.TaskGroup() as group:
        for at, model in schedule:
            delay = start + at - asyncio.get_running_loop().time()
            if delay > 0:
                await asyncio.sleep(delay)
            bar.update(task, completed=at)
            group.create_task(ask(client, inputs[model], start + at, tallies[model]))
    bar.remove_task(task)
    return list(tallies.values())


@dataclass
class Report:
    """The results of the demo: right labels, outcomes of requests, and the count of requests at the server."""

    right: int
    outcomes: Counter[str]
    sent: int
    counted: int
    disturbed: float = 0.0  # share of the processor time that other processes took from Clockwork

    @property
    def late(self) -> float:
        """Return the share of the requests that were late."""
        return self.outcomes["late"] / max(1, self.sent)

    def faults(self) -> list[str]:
        """Return descriptions of the faults of the software."""
        found = []
        if self.right < len(EXPECTED):
            found.append(f"{len(EXPECTED) - self.right} of {len(EXPECTED)} files have a wrong label")
        if self.outcomes["failed"]:
            found.append(f"{self.outcomes['failed']} requests failed")
        if self.counted != self.sent:
            found.append(f"{self.sent} requests were sent and the server answered {self.counted}")
        if not self.outcomes["in time"]:
            found.append("no request was answered in time")
        if self.late > MAX_LATE + self.disturbed:
            allowed = f"{MAX_LATE:.0%}, and {self.disturbed:.0%} for the measured disturbance"
            found.append(f"{self.late:.1%} of the requests were late; allowed are {allowed}")
        return found


class OtherLoad:
    """Measures the processor time of processes other than the demo and its server."""

    def __init__(self, server: int) -> None:
        """Start to measure other processes. ``server`` is the id of the server's process."""
        children = Path(f"/proc/{server}/task/{server}/children")
        self._own = [os.getpid(), server, *map(int, children.read_text().split() if children.exists() else ())]
        self._busy, self._total, self._used = self._read()

    def share(self) -> float:
        """Return which share of the allowed cores' time other processes have used since the start."""
        busy, total, used = self._read()
        return min(1.0, max(0.0, (busy - self._busy - (used - self._used)) / max(1.0, total - self._total)))

    def _read(self) -> tuple[float, float, float]:
        allowed = os.sched_getaffinity(0)
        ticks = [each for core, each in read_counters(Path("/")).ticks.items() if core in allowed]
        used = 0.0
        for process in self._own:
            with contextlib.suppress(OSError):  # raised if the worker was restarted
                used += process_time(process) / 1e9 * os.sysconf("SC_CLK_TCK")
        return sum(each.busy + each.stolen for each in ticks), sum(each.total for each in ticks), used


def disturbed_share(environment: Environment) -> float:
    """Return the largest share of a device core's time that interruptions, other processes or a hypervisor took."""
    measured = environment.measured
    lost = [core.lost / core.watched for core in measured.interruptions if core.watched]
    taken = [each.share for each in (*measured.others, *measured.stolen) if each.core in environment.device_cores]
    return max((*lost, *taken), default=0.0)


def causes(environment: Environment) -> list[Finding]:
    """Return the findings that can make a response late. The worst finding is the first."""
    found = [it for it in check(environment) if it.name in CAUSES and it.level in (Level.WARNING, Level.BAD)]
    return sorted(found, key=lambda finding: -finding.level.rank)


async def explain_late(report: Report) -> None:
    """Measure this machine, and print possible causes of late requests."""
    console.print(f"\n[bold]{report.outcomes['late']} requests were late.[/] Checking this host ...")
    environment = await asyncio.to_thread(examine, 1, 1, CHECK_SECONDS)
    during, report.disturbed = report.disturbed, max(report.disturbed, disturbed_share(environment))
    console.print(f"  during the load, other processes took {during:.0%} of the cores that Clockwork may use")
    found = causes(environment)
    for finding in found:
        console.print(f"  cause: {finding.name}: {finding.found}", soft_wrap=True)
        console.print(f"    {finding.cost}", soft_wrap=True)
        console.print(f"    fix: {finding.fix}", soft_wrap=True)
    if not found:
        console.print("  no cause is visible now; to look longer, run clockwork check-env --seconds 60")


def show_load(tallies: list[Tally]) -> Counter[str]:
    """Print a table of the outcomes, and return the sum over all models."""
    title = f"{SECONDS:.0f} s of Poisson arrivals, {LOAD:.0%} of the device's time, {SLO * 1e3:.0f} ms each"
    table = Table("model", title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for column in ("sent", *ANSWERS, "p50 ms", "p99 ms", "cold starts"):
        table.add_column(column, justify="right")
    everything = Tally("all")
    for it in tallies:
        everything.outcomes += it.outcomes
        everything.latencies += it.latencies
    for it in (*tallies, everything):
        counts = [it.outcomes[answer] for answer in ANSWERS]
        percentiles = np.percentile(it.latencies, (50, 99)) * 1e3 if it.latencies else (np.nan, np.nan)
        numbers = [sum(counts), *counts, *(f"{value:.1f}" for value in percentiles), it.outcomes["cold starts"]]
        table.add_row(it.model, *map(str, numbers))
    console.print(table)
    return everything.outcomes


async def demo() -> bool:
    """Run the demo. Return true if it found no fault in the software."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        for name in bar.track(ZOO, description="building networks"):
            await asyncio.to_thread(zoo.build, name, ROOT / "build/zoo")
        async with serve(f"magika={magika('model.onnx')}", *(f"build/zoo/{name}.onnx" for name in ZOO)) as server:
            await show_startup(server, bar)
            console.print("\n[bold]Types of files[/], recognised by the network of magika over three protocols:")
            async with asking(await server.address, server.others["HTTP"], server.others["gRPC"]) as ways:
                right = await label_files(ways, bar)
            console.print()
            async with AsyncClient(await server.address) as client:
                before = answered(await client.status())
                others = OtherLoad(server.process.pid)
                tallies = await load(client, bar)
                disturbed, counted = others.share(), answered(await client.status()) - before
    outcomes = show_load(tallies)
    sent = sum(outcomes[answer] for answer in ANSWERS)
    report = Report(right, outcomes, sent, counted, disturbed)
    if outcomes["late"]:
        await explain_late(report)
    show_result(report)
    return not report.faults()


def show_result(report: Report) -> None:
    """Print the outcomes of the requests, the faults of the software, and whether the demo passed."""
    outcomes = report.outcomes
    console.print(
        f"\n{report.right} of {len(EXPECTED)} labels right; of {report.sent} requests {outcomes['in time']} were "
        f"in time, {outcomes['refused']} refused on arrival, {outcomes['late']} late",
        soft_wrap=True,
    )
    for fault in report.faults():
        console.print(f"[red]wrong: {fault}[/]", soft_wrap=True)
    console.print("[bold red]the demo failed[/]" if report.faults() else "[bold green]the demo passed[/]")


def main() -> int:
    try:
        return 0 if uvloop.run(demo()) else 1
    except (DemoError, ClockworkError) as error:
        console.print(f"[bold red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
