"""Measure the cost of metrics.

    python benchmarks/bench_metrics.py --json metrics.json

There are three parts:

(a) The cost of metrics (`feature_cost` describes how it is measured). One server has the default options, and its
    metrics are scraped in each turn. The other has --no-metrics. Both servers keep counts, because Triton's statistics
    need them. The results are ratios of the throughput (limit: 0.97) and of the controller's processor time for a
    request (limit: 1.03).
(b) The time to count one request in a batch of one, in this process.
(c) The duration of a scrape of a server with 4,000 emulated models. The latency of other requests is measured during a
    scrape and without one, in milliseconds.
"""

import asyncio
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import raw_http
import uvloop
from feature_cost import ON_ITS_CORE, feature_cost, servers
from serving import Served, machine, median, options, p, serving, tell

from clockwork.controller.tally import Counts
from clockwork.messages.actions import Infer, InferInput
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import InferResult, Timing
from clockwork.messages.status import Status
from clockwork.zoo import build

MODELS = 4000
SCRAPES = 5
COUNTED = 200_000


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


@asynccontextmanager
async def scraping(served: Served) -> AsyncIterator[None]:
    """Scrape the metrics once while the context is open."""
    scraper = await raw_http.connect(served.http)
    scrape = scraper.ask(get("/metrics"))
    yield
    await scrape
    scraper.transport.close()


async def bench_cost(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure part (a): the cost of the metrics."""
    both = servers(model, lacking=["--no-metrics", "--no-model-histograms"])
    return await feature_cost(both, model.stem, duration, rounds, during=scraping)


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
    chosen = options(__doc__, seconds=0.4, rounds=72).parse_args()
    results = machine()
    with tempfile.TemporaryDirectory() as directory:
        results |= await bench_cost(build("mlp", Path(directory)), chosen.seconds, chosen.rounds)
    results |= bench_count()
    results |= await bench_scrape()
    tell(results, chosen.json)


if __name__ == "__main__":
    uvloop.run(main())
