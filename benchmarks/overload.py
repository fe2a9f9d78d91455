"""Goodput over HTTP as the load grows: an open loop of Poisson arrivals, whatever the server answers.

    python benchmarks/overload.py --json results.json

Four squeezenets and four shufflenets, each from a file of its own, inputs of 602,112 bytes, an SLO of 100 ms. The load
is told in multiples of what the mix does on bare ONNX Runtime with one thread on the server's core, measured right
before: one model after the other, as requests ask for them. (One model again and again finds its weights in the caches,
and does a sixth more; that is told as well.) The whole server runs on that core, the load generator on another. A
latency, of a success or of a refusal, counts from the moment when the request should have been sent; a success that is
later than the SLO is not in time, whatever the server thinks.

``bare_server``: the same requests, sent to the least that a server can be, see ``bare_http.py``. It is nobody's
product; it tells how much of the distance to bare ONNX Runtime sockets and HTTP are on that machine.
"""

import asyncio
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from bare_http import bare_http
from raw_http import Connection, connect, infer_request
from serving import Bare, machine, options, p, serving, tell

from clockwork.alarm import Alarm
from clockwork.host.affinity import confined
from clockwork.units import SECOND
from clockwork.workload.arrivals import poisson
from clockwork.zoo import build

CORES = sorted(os.sched_getaffinity(0))
SERVER, GENERATOR = CORES[0], CORES[-1]
NETWORKS = ("squeezenet", "shufflenet")
EACH = 4
LOADS = (0.5, 0.8, 1.0, 1.2, 1.5)
SLO_MS = 100.0
TRANSIT_MS = 4.0
"""What a client leaves for the ways there and back: the server counts from the first byte that it sees of a request."""

COMPARED = ("in_time_share", "of_bare_capacity", "late", "ms_p50", "ms_p99", "refusal_ms_p99")

BROKEN = b"admitted, and yet"
"""What the server says to whom it had promised to be in time, when it knows better: no refusal."""


@dataclass
class Outcomes:
    """Of one run; latencies in ms."""

    in_time: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    broken: list[float] = field(default_factory=list)
    timed_out: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, status: int, body: bytes, latency: float) -> None:
        """An answer, by its HTTP status."""
        match status:
            case 200:
                (self.in_time if latency <= SLO_MS else self.late).append(latency)
            case 503 if BROKEN in body:
                self.broken.append(latency)
            case 503:
                self.refused.append(latency)
            case 504:
                self.timed_out.append(latency)
            case _:
                self.failed += 1

    def summary(self, load: float, rate: float) -> dict[str, Any]:
        """As JSON."""
        sent = (
            len(self.in_time)
            + len(self.late)
            + len(self.refused)
            + len(self.broken)
            + len(self.timed_out)
            + self.failed
        )
        return {
            "load": load,
            "rate": round(rate, 1),
            "sent": sent,
            "in_time_share": round(len(self.in_time) / sent, 4),
            "of_bare_capacity": round(load * len(self.in_time) / sent, 4),
            "late": len(self.late),
            "refused": len(self.refused),
            "broken": len(self.broken),
            "timed_out": len(self.timed_out),
            "failed": self.failed,
            "ms_p50": p(self.in_time, 50),
            "ms_p99": p(self.in_time, 99),
            "refusal_ms_p50": p(self.refused, 50),
            "refusal_ms_p99": p(self.refused, 99),
            "broken_ms_p99": p(self.broken, 99),
        }


class OpenLoop:
    """Sends requests when they are due, each on a connection that is free, or a new one."""

    def __init__(self, address: str, requests: list[bytes], rate: float, rng: random.Random) -> None:
        self._address = address
        self._requests = requests
        self._rng = rng
        self._next = poisson(rate, rng)
        self._free: list[Connection] = []
        self.outcomes = Outcomes()

    async def run(self, duration: float) -> Outcomes:
        """For so many seconds, and until all is answered."""
        due = asyncio.Event()
        alarm = Alarm(asyncio.get_running_loop(), due.set)
        self._free = [await connect(self._address) for _ in range(64)]
        start, at, tasks = time.monotonic_ns(), 0, []
        while (at := self._next(at)) < duration * SECOND:
            if (wait := start + at - time.monotonic_ns()) > 0:
                due.clear()
                alarm.set(wait)
                await due.wait()
            tasks.append(asyncio.ensure_future(self._exchange(self._rng.choice(self._requests), start + at)))
        await asyncio.gather(*tasks)
        alarm.close()
        for connection in self._free:
            connection.transport.close()
        return self.outcomes

    async def _exchange(self, request: bytes, due: int) -> None:
        connection = self._free.pop() if self._free else await connect(self._address)
        status = await connection.ask(request)
        self.outcomes.add(status, connection.body, (time.monotonic_ns() - due) / 1e6)
        self._free.append(connection)


def built(root: Path) -> list[Path]:
    """The models, no two alike."""
    made = []
    for name in NETWORKS:
        for seed in range(EACH):
            directory = root / f"{name}-{seed}"
            directory.mkdir()
            made.append(build(name, directory, seed).rename(root / f"{name}-{seed}.onnx"))
    return made


def capacity(models: list[Path], image: np.ndarray, duration: float) -> tuple[float, float]:
    """Requests per second on bare ONNX Runtime: of the mix, and of models one by one."""
    bare = [Bare(model, {"data": image}) for model in models]
    alone = [np.mean(bare[i].run(duration / 2, SERVER)) for i in (0, EACH)]
    rng, served = random.Random(0), 0
    with confined({SERVER}):
        begin = time.perf_counter()
        while (taken := time.perf_counter() - begin) < duration:
            rng.choice(bare).once()
            served += 1
    return served / taken, 1e3 / float(np.mean(alone))


async def measure(duration: float, loads: tuple[float, ...] = LOADS) -> dict[str, Any]:
    """The keys."""
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    with tempfile.TemporaryDirectory() as directory:
        models = built(Path(directory))
        able, alone = capacity(models, image, max(2.0, duration / 4))
        arguments = ["--http=127.0.0.1:0", "--profile-seconds=0.5", *models]
        results: dict[str, Any] = {
            "bare_mix_requests_per_s": round(able, 1),
            "bare_alone_requests_per_s": round(alone, 1),
        }
        results["goodput"] = []
        with (
            bare_http(models, SLO_MS - 2 * TRANSIT_MS, on={SERVER}) as bare,
            serving(*arguments, on={SERVER}, here={GENERATOR}) as served,
        ):
            for load in loads:
                outcomes = await run(served.http, models, image, load * able, duration)
                summary = outcomes.summary(load, load * able)
                beside = (await run(bare, models, image, load * able, duration)).summary(load, load * able)
                results["goodput"].append(summary | {"bare_server": {key: beside[key] for key in COMPARED}})
                if load == loads[0]:
                    results["memory_mb"] = round(served.pss_mb(), 1)
    return results


async def run(address: str, models: list[Path], image: np.ndarray, rate: float, duration: float) -> Outcomes:
    """One load; a short one before it does not count."""
    requests = [infer_request(address, model.stem, image, SLO_MS - TRANSIT_MS) for model in models]
    await OpenLoop(address, requests, rate, random.Random(0)).run(1.0)
    return await OpenLoop(address, requests, rate, random.Random(1)).run(duration)


async def main() -> None:
    """Measure and tell."""
    given = options(__doc__, seconds=10.0, rounds=1).parse_args()
    tell(machine() | await measure(given.seconds), given.json)


if __name__ == "__main__":
    uvloop.run(main())
