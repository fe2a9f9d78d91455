"""What metrics cost: throughput with and without them, a request's counting alone, and a scrape of very many models.

    python benchmarks/bench_metrics.py --json results.json

(a) Two servers (controller, front end, worker, a 64-64-10 MLP) on one core, asked in turns over HTTP by 64 connections
from another core: one as it is by default, scraped once in each turn; the other with --no-metrics. Ratios are medians
of the rounds' ratios: of the throughput (the bar is 0.97), and of the controller's processor time for a request, which
whatever else runs on the machine disturbs less (1.03). Counts are kept in both: Triton's statistics need them.
(b) Counting one request in a batch of its own, in this process.
(c) A scrape of a server of 4,000 emulated models: what it takes, and the latency of another request, in milliseconds,
while it is made and while it is not.
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
from typing import Any, NamedTuple

import numpy as np
import uvloop

from clockwork.controller.tally import Counts
from clockwork.messages.actions import Infer, InferInput
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import InferResult, Timing
from clockwork.messages.status import Status
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.zoo import build

CORES = sorted(os.sched_getaffinity(0))
SERVER, GENERATOR = CORES[0], CORES[-1]
CONNECTIONS = 64
MODELS = 4000
SCRAPES = 5
WARM_UP = 2.0
COUNTED = 200_000


class Server(NamedTuple):
    address: str
    pid: int

    def cpu_ns(self) -> int:
        """Processor time of the controller's thread (proc(5), schedstat)."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0])


@contextmanager
def server(*arguments: str) -> Iterator[Server]:
    """`clockwork serve` on one core, and where it serves HTTP."""
    command = [str(Path(sys.executable).with_name("clockwork")), "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0"]
    os.sched_setaffinity(0, {SERVER})
    with subprocess.Popen([*command, "--log-level=error", *arguments], stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(0, {GENERATOR})
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]  # "clockwork serves HTTP on HOST:PORT"
            if "is serving" not in process.stdout.readline():
                raise SystemExit(f"the server ended with {process.wait()}: {' '.join(command)}")
            yield Server(address, process.pid)
        finally:
            process.terminate()


class Connection:
    """Asks, and waits for the answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: str) -> "Connection":
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, request: bytes) -> bytes:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]
        body = await self.reader.readexactly(int(length))
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError((head + body[:500]).decode(errors="replace"))
        return body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def infer(model: str) -> bytes:
    row = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32).tobytes()
    tensor = {"name": "data", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": len(row)}}
    said = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, "slo_ms": 10_000}}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(said) + len(row)}\r\n"
    return f"{head}Inference-Header-Content-Length: {len(said)}\r\n\r\n".encode() + said + row


class Load:
    """Connections to one server, that ask when they are told to."""

    def __init__(self, asked: Server, connections: list[Connection], scraper: Connection | None) -> None:
        self.asked, self.connections, self.scraper = asked, connections, scraper

    @classmethod
    async def of(cls, asked: Server, scraped: bool) -> "Load":
        connections = [await Connection.to(asked.address) for _ in range(CONNECTIONS)]
        return cls(asked, connections, await Connection.to(asked.address) if scraped else None)

    async def turn(self, request: bytes, duration: float) -> tuple[float, float]:
        """Requests per second, and microseconds of the controller's processor time for each."""
        cpu = self.asked.cpu_ns()
        begin = time.perf_counter()
        end = begin + duration

        async def ask(connection: Connection) -> int:
            done = 0
            while time.perf_counter() < end:
                await connection.ask(request)
                done += 1
            return done

        scraping = [] if self.scraper is None else [self.scraper.ask(get("/metrics"))]
        done, *_ = await asyncio.gather(asyncio.gather(*map(ask, self.connections)), *scraping)
        return sum(done) / (time.perf_counter() - begin), (self.asked.cpu_ns() - cpu) / sum(done) / 1000


async def bench_cost(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """(a)."""
    sent = infer(model.stem)
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with server(str(model)) as on, server(str(model), "--no-metrics", "--no-model-histograms") as off:
        loads = {True: await Load.of(on, True), False: await Load.of(off, False)}
        for load in loads.values():
            await load.turn(sent, WARM_UP)
        for number in range(rounds):
            for scraped in (True, False) if number % 2 else (False, True):
                found[scraped].append(await loads[scraped].turn(sent, duration))
    made: dict[str, Any] = {}
    for at, what in enumerate(("requests_per_s", "cpu_us_per_request")):
        with_it, without = [[turn[at] for turn in found[scraped]] for scraped in (True, False)]
        ratios = [one / other for one, other in zip(with_it, without, strict=True)]
        made[f"{what}_with"] = round(statistics.median(with_it), 2)
        made[f"{what}_without"] = round(statistics.median(without), 2)
        made[f"{what}_ratio"] = round(statistics.median(ratios), 4)
        made[f"{what}_ratio_quartiles"] = [round(ratio, 3) for ratio in statistics.quantiles(ratios, n=4)]
    return made


def bench_count() -> dict[str, float]:
    """(b)."""
    counts = Counts()
    action = Infer(1, 0, "m", (InferInput(1, 1, ()),))
    timing = Timing(1, 2, 100)
    result = InferResult(1, (), timing, timing, timing)
    told = RequestTiming(5_000_000, 1_000_000, 1_000_000, 1)
    begin = time.perf_counter_ns()
    for _ in range(COUNTED):
        counts.pending += 1
        counts.acted(action, result)
        counts.delivered(told, result)
        counts.answered(Status.SUCCESS, told.total)
        counts.pending -= 1
    return {"counting_us": round((time.perf_counter_ns() - begin) / COUNTED / 1000, 3)}


async def bench_scrape(scrapes: int) -> dict[str, float]:
    """(c)."""
    with server("--emulate=8", "--profile=resnet50-v100", f"--copies={MODELS}") as asked:
        scraper, probe = await Connection.to(asked.address), await Connection.to(asked.address)
        quiet: list[float] = []
        busy: list[float] = []
        took: list[float] = []
        lines = 0
        for _ in range(scrapes):
            quiet += await probed(probe, asyncio.ensure_future(asyncio.sleep(1.0)))
            begin = time.perf_counter()
            scraping = asyncio.ensure_future(scraper.ask(get("/metrics")))
            busy += await probed(probe, scraping)
            took.append(time.perf_counter() - begin)
            lines = scraping.result().count(b"\n")
    return {
        "scrape_models": MODELS,
        "scrape_lines": lines,
        "scrape_s": round(statistics.median(took), 3),
        "probe_ms_p99_quiet": round(float(np.percentile(quiet, 99)), 3),
        "probe_ms_max_quiet": round(max(quiet), 3),
        "probe_ms_p99_scraped": round(float(np.percentile(busy, 99)), 3),
        "probe_ms_max_scraped": round(max(busy), 3),
    }


async def probed(probe: Connection, other: "asyncio.Future[Any]") -> list[float]:
    """Latencies in ms of requests one after the other, until ``other`` is done."""
    latencies = []
    while not other.done():
        begin = time.perf_counter()
        await probe.ask(get("/v2/health/live"))
        latencies.append((time.perf_counter() - begin) * 1e3)
    return latencies


async def main() -> None:
    """Run all and print, and write, the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=0.4, help="of a turn (default: 0.4)")
    parser.add_argument("--rounds", type=int, default=60, help="turns of each in (a) (default: 60)")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {OnnxRuntime().device_kind}"}
    with tempfile.TemporaryDirectory() as directory:
        results |= await bench_cost(build("mlp", Path(directory)), options.seconds, options.rounds)
    results |= bench_count()
    results |= await bench_scrape(SCRAPES)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    uvloop.run(main())
