"""Measure the cost of metrics.

    python benchmarks/bench_metrics.py --json metrics.json

There are three parts:

(a) Two servers (controller, front end, worker, a 64-64-10 MLP) run on one core. The servers are measured in turns, over
    HTTP with 64 connections from another core. One server has the default options, and its metrics are scraped in each
    turn. The other has --no-metrics. Both servers keep counts, because Triton's statistics need them. The results are
    ratios of the throughput (limit: 0.97) and of the controller's processor time for a request (limit: 1.03). Other
    programs on the machine disturb the ratio of processor times less. A ratio is the median over all rounds.
(b) The time to count one request in a batch of one, in this process.
(c) The duration of a scrape of a server with 4,000 emulated models. The latency of other requests is measured during a
    scrape and without one, in milliseconds.
"""

import asyncio
import os
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import raw_http
import uvloop
from serving import Served, machine, median, options, p, serving, tell

from clockwork.controller.tally import Counts
from clockwork.messages.actions import Infer, InferInput
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import InferResult, Timing
from clockwork.messages.status import Status
from clockwork.zoo import build

CORES = sorted(os.sched_getaffinity(0))
SERVER, GENERATOR = CORES[0], CORES[-1]
ON_ITS_CORE: dict[str, Any] = {"on": {SERVER}, "here": {GENERATOR}}
SLO_MS = 10_000
CONNECTIONS = 64
MODELS = 4000
SCRAPES = 5
COUNTED = 200_000
WARM_UP = 2.0


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


def cpu_ns(served: Served) -> int:
    """Return the processor time of the controller's thread (proc(5), schedstat)."""
    pid = served.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


async def turn(served: Served, request: bytes, duration: float, scraped: bool) -> tuple[float, float]:
    """Return requests per second, and microseconds of the controller's processor time for each request."""
    scraper = await raw_http.connect(served.http)
    cpu = cpu_ns(served)
    scraping = asyncio.ensure_future(scraper.ask(get("/metrics"))) if scraped else None
    rate, latencies = await raw_http.closed_loop(served.http, request, CONNECTIONS, duration)
    if scraping is not None:
        await scraping
    scraper.transport.close()
    return rate, (cpu_ns(served) - cpu) / len(latencies) / 1000


async def bench_cost(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure part (a): the throughput with and without metrics."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    bare = ("--no-metrics", "--no-model-histograms")
    port = "--http=127.0.0.1:0"
    with serving(model, port, **ON_ITS_CORE) as on, serving(model, port, *bare, **ON_ITS_CORE) as off:
        row = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
        request = raw_http.infer_request(on.http, model.stem, row, SLO_MS)
        for served in (on, off):
            await turn(served, request, WARM_UP, False)
        for number in range(rounds):
            for scraped in (True, False) if number % 2 else (False, True):
                found[scraped].append(await turn(on if scraped else off, request, duration, scraped))
    made: dict[str, Any] = {}
    for at, what in enumerate(("requests_per_s", "cpu_us_per_request")):
        with_it, without = [[one[at] for one in found[scraped]] for scraped in (True, False)]
        ratios = [one / other for one, other in zip(with_it, without, strict=True)]
        made[f"{what}_with"] = median(with_it)
        made[f"{what}_without"] = median(without)
        made[f"{what}_ratio"] = median(ratios)
        made[f"{what}_ratio_quartiles"] = [round(ratio, 3) for ratio in statistics.quantiles(ratios, n=4)]
    return made


def bench_count() -> dict[str, float]:
    """Measure part (b): the time to count a request."""
    counts = Counts()
    action = Infer(1, 0, "m", (InferInput(1, 1, ()),))
    timing = Timing(1, 2, 100)
    result = InferResult(1, (), timing, timing, timing)
    told = RequestTiming(5_000_000, 1_000_000, 1_000_000, 1)
    begin = time.perf_counter_ns()
    for _ in range(COUNTED):
        counts.pending += 1
        counts.acted(action, result)
        counts.delivered(begin, told, result)
        counts.answered(begin, Status.SUCCESS, told.total)
        counts.pending -= 1
    return {"counting_us": round((time.perf_counter_ns() - begin) / COUNTED / 1000, 3)}


async def bench_scrape() -> dict[str, float]:
    """Measure part (c): a scrape of 4,000 models."""
    emulated = ("--emulate=8", "--profile=resnet50-v100", f"--copies={MODELS}", "--http=127.0.0.1:0")
    with serving(*emulated, **ON_ITS_CORE) as served:
        scraper, probe = await raw_http.connect(served.http), await raw_http.connect(served.http)
        quiet: list[float] = []
        busy: list[float] = []
        took: list[float] = []
        for _ in range(SCRAPES):
            quiet += await probed(probe, asyncio.ensure_future(asyncio.sleep(1.0)))
            begin = time.perf_counter()
            busy += await probed(probe, scraper.ask(get("/metrics")))
            took.append(time.perf_counter() - begin)
        text = await asyncio.to_thread(scraped_text, served.http)
    return {
        "scrape_models": MODELS,
        "scrape_lines": text.count(b"\n"),
        "scrape_s": median(took),
        "probe_ms_p99_quiet": p(quiet, 99),
        "probe_ms_max_quiet": p(quiet, 100),
        "probe_ms_p99_scraped": p(busy, 99),
        "probe_ms_max_scraped": p(busy, 100),
    }


def scraped_text(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text: bytes = answer.read()
    return text


async def probed(probe: raw_http.Connection, other: "asyncio.Future[Any]") -> list[float]:
    """Send requests one after the other until ``other`` is done, and return their latencies in ms."""
    latencies = []
    while not other.done():
        begin = time.perf_counter()
        await probe.ask(get("/v2/health/live"))
        latencies.append((time.perf_counter() - begin) * 1e3)
    return latencies


async def main() -> None:
    """Run all parts, and print and write the results."""
    chosen = options(__doc__, seconds=0.4, rounds=60).parse_args()
    results = machine()
    with tempfile.TemporaryDirectory() as directory:
        results |= await bench_cost(build("mlp", Path(directory)), chosen.seconds, chosen.rounds)
    results |= bench_count()
    results |= await bench_scrape()
    tell(results, chosen.json)


if __name__ == "__main__":
    uvloop.run(main())
