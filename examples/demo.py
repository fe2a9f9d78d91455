"""The demo: serve four real networks, classify files with one of them, run a load test, and report the result.

1. Build three networks of the zoo. The fourth, from the package magika, is trained to recognise types of files.
2. Start ``clockwork serve`` and show its stages: querying, loading, profiling, serving.
3. Classify files of this repository with magika's network, each three times: with Clockwork's client, and with Triton's
   clients over HTTP and gRPC. Compare the labels with the expected ones.
4. Send 15 s of Poisson arrivals to all four networks, at half of the device's measured capacity; each model gets an
   equal share of the device's time. Every request has 250 ms from its due time.

The exit code is 0 if every label was right in every protocol and 99 % of all requests were in time.
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
LOAD = 0.5  # share of the device's time
SLO = 0.250  # seconds
MIN_IN_TIME = 0.99
SEED = 2020

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
    """The demo cannot continue."""


@dataclass
class Server:
    """A running ``clockwork serve``."""

    process: asyncio.subprocess.Process
    address: asyncio.Future[str]  # the address, as soon as the server listens
    serving: asyncio.Future[str]  # the line that the server prints when it serves
    others: dict[str, str] = field(default_factory=dict)  # addresses of HTTP and gRPC


@asynccontextmanager
async def serve(*models: str) -> AsyncIterator[Server]:
    """Start a server that ends with the demo."""
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
    """Write the server's log to a file; show the stages and the measured times."""
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
    """Read the addresses of the protocols, and the line that the server prints when it serves."""
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
            future.exception()  # a waiter gets the error; without one it must not be reported


async def show_startup(server: Server, bar: Progress) -> None:
    """Wait until the server serves; meanwhile request its status."""
    task = bar.add_task("starting", total=None)
    with contextlib.suppress(ConnectionLostError):  # the server ended, so no line will come
        async with AsyncClient(await server.address) as client:
            while not server.serving.done():
                status = await client.status()
                progress = status.progress
                bar.update(task, description=status.stage, completed=progress.done, total=progress.total or None)
                await asyncio.wait([server.serving], timeout=0.1)
    bar.remove_task(task)
    console.print(f"[bold]{await server.serving}[/]")


def magika(file: str) -> str:
    """Return the path of the network in the package magika, relative to `ROOT`."""
    found = importlib.util.find_spec("magika")
    for home in found.submodule_search_locations or [] if found is not None else []:
        for model in sorted(Path(home).glob("models/*/model.onnx")):
            return os.path.relpath(model.with_name(file), ROOT)
    raise DemoError("the package magika is not installed: run make demo, or pip install magika")


def features(file: Path) -> NDArray[np.int32]:
    """Return features, (1, 2048) int32: the first and last 1024 bytes, stripped and padded with 256 (magika)."""
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
    """Yield functions that query magika's network, by protocol, each with its own client."""
    import tritonclient.grpc.aio as triton_grpc
    import tritonclient.http.aio as triton_http

    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(AsyncClient(native))

        async def ask_own(row: NDArray[np.int32]) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = (await own.infer("magika", {"bytes": row}, slo=1.0))["target_label"][0]
            return scores

        async def ask_triton(triton: Any, client: Any, row: NDArray[np.int32]) -> NDArray[np.float32]:
            tensor = triton.InferInput("bytes", list(row.shape), "INT32")
            tensor.set_data_from_numpy(row)
            scores: NDArray[np.float32] = (
                await client.infer("magika", [tensor], parameters={"slo_ms": 1000})
            ).as_numpy("target_label")[0]
            return scores

        ways: dict[str, Scores] = {"native": ask_own}
        for name, triton, address in (("HTTP", triton_http, http), ("gRPC", triton_grpc, grpc)):
            client = await stack.enter_async_context(triton.InferenceServerClient(address))
            ways[name] = partial(ask_triton, triton, client)
        yield ways


async def label(file: Path, ways: dict[str, Scores]) -> dict[str, tuple[str, float]]:
    """Return the file's label and its score, by protocol."""
    labels = json.loads((ROOT / magika("config.min.json")).read_text())["target_labels_space"]
    found = {name: await ask(features(file)) for name, ask in ways.items()}
    return {name: (labels[scores.argmax()], float(scores.max())) for name, scores in found.items()}


async def label_files(ways: dict[str, Scores], bar: Progress) -> int:
    """Classify the files of `EXPECTED` and show the labels; returns the number of files with right labels."""
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
    """Outcomes of one model's requests; latencies of requests in time are in seconds."""

    model: str
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)


def rates(status: ServerStatus) -> dict[str, float]:
    """Return the request rate of each model: each gets an equal share of the device's time, together `LOAD`."""
    seconds = {it.info.name: profile.infer[1].median / 1e9 for it in status.models for profile in it.profiles.values()}
    return {model: LOAD / len(seconds) / each for model, each in seconds.items()}


def arrivals(wanted: dict[str, float]) -> list[tuple[float, str]]:
    """Return Poisson arrivals of all models: (seconds from the start, model), in order."""
    chance = random.Random(SEED)
    made = []
    for model, rate in wanted.items():
        at = chance.expovariate(rate)
        while at < SECONDS:
            made.append((at, model))
            at += chance.expovariate(rate)
    return sorted(made)


async def ask(client: AsyncClient, inputs: Inputs, due: float, tally: Tally) -> None:
    """Send one request; its latency counts from its due time."""
    now = asyncio.get_running_loop().time
    try:
        result = await client.infer(tally.model, inputs, slo=max(0.001, SLO - (now() - due)))
    except ClockworkError as error:
        refused = "refused" if isinstance(error, RequestRefusedError) else "failed"
        outcome = "late" if isinstance(error, RequestTimeoutError) else refused
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
        await client.evict(name)  # so that each model begins with a cold start
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


def show_load(tallies: list[Tally]) -> float:
    """Print the table; returns the share of requests in time."""
    title = f"{SECONDS:.0f} s of Poisson arrivals, {LOAD:.0%} of the device's time, {SLO * 1e3:.0f} ms each"
    table = Table("model", title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    answers = ("in time", "late", "refused", "failed")
    for column in ("sent", *answers, "p50 ms", "p99 ms", "cold starts"):
        table.add_column(column, justify="right")
    everything = Tally("all")
    for it in tallies:
        everything.outcomes += it.outcomes
        everything.latencies += it.latencies
    for it in (*tallies, everything):
        counts = [it.outcomes[answer] for answer in answers]
        percentiles = np.percentile(it.latencies, (50, 99)) * 1e3 if it.latencies else (np.nan, np.nan)
        numbers = [sum(counts), *counts, *(f"{value:.1f}" for value in percentiles), it.outcomes["cold starts"]]
        table.add_row(it.model, *map(str, numbers))
    console.print(table)
    return everything.outcomes["in time"] / max(1, sum(everything.outcomes[answer] for answer in answers))


async def demo() -> bool:
    """Run the demo; returns whether all went well."""
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
                tallies = await load(client, bar)
    in_time = show_load(tallies)
    good = right == len(EXPECTED) and in_time >= MIN_IN_TIME
    console.print(
        f"\n{right} of {len(EXPECTED)} labels right (all must be), {in_time:.2%} in time (at least {MIN_IN_TIME:.0%} "
        f"must be): {'[bold green]the demo passed[/]' if good else '[bold red]the demo failed[/]'}",
        soft_wrap=True,
    )
    return good


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
