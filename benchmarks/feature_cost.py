"""Measure the cost of a feature of the server: two servers, with the feature and without it, are measured in turns.

Both servers (controller, front end, worker, a 64-64-10 MLP) run on one core. The load comes over HTTP from 64
connections of this process, on another core. The order of the turns is with, without, without, with. So a machine that
becomes slower or faster disturbs both servers equally. Each turn measures two values: requests per second, and the
processor time of the controller's process for each request. Other programs on the machine disturb the processor time
less. A round is one turn of each server. The ratio of a round is the value with the feature divided by the value
without it.
"""

import os
import statistics
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import raw_http
from serving import Served, median

CORES = sorted(os.sched_getaffinity(0))
ON_ITS_CORE: dict[str, Any] = {"on": {CORES[0]}, "here": {CORES[-1]}}
"""Arguments of `serving.serving`: the server's core, and the core of this process."""

SLO_MS = 10_000
OPTIONS = ("--http=127.0.0.1:0", f"--slo={SLO_MS}ms")
"""Arguments of the servers. A busy server assumes the default SLO for a request that it has not read yet."""

CONNECTIONS = 64
WARM_UP = 2.0
"""Duration in seconds of the first turn of each server, which is not counted."""

During: TypeAlias = Callable[[Served], AbstractAsyncContextManager[object]]
"""Returns a context that is open during a turn, for example an open connection that uses the feature."""


def mlp_request(served: Served, model: str) -> bytes:
    """Return a request of one row for the 64-64-10 MLP."""
    row = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    return raw_http.infer_request(served.http, model, row, SLO_MS)


def nothing(served: Served) -> AbstractAsyncContextManager[object]:
    """Return a context that does nothing."""
    return nullcontext()


def cpu_ns(served: Served) -> int:
    """Return the processor time of the controller's threads (proc(5), schedstat)."""
    threads = Path(f"/proc/{served.process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


async def turn(served: Served, request: bytes, duration: float, during: During = nothing) -> tuple[float, float]:
    """Return requests per second, and microseconds of the controller's processor time for each request."""
    cpu = cpu_ns(served)
    async with during(served):
        rate, latencies = await raw_http.closed_loop(served.http, request, CONNECTIONS, duration)
    return rate, (cpu_ns(served) - cpu) / len(latencies) / 1000


async def feature_cost(
    having: Served,
    lacking: Served,
    request: bytes,
    duration: float,
    rounds: int,
    during: During = nothing,
) -> dict[str, Any]:
    """Measure a server ``having`` the feature and a server ``lacking`` it. Both may be the same server.

    ``duration`` is the length of a turn in seconds. ``during`` is open in the turns with the feature. The result
    contains, for throughput and for processor time, the medians with and without the feature, and the median and the
    quartiles of the rounds' ratios. ``cost`` is the additional processor time for a request, as a share.
    """
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for served in (having, lacking):
        await turn(served, request, WARM_UP)
    for number in range(rounds):
        for used in (False, True) if number % 2 else (True, False):
            measured = turn(having, request, duration, during) if used else turn(lacking, request, duration)
            found[used].append(await measured)
    made: dict[str, Any] = {"connections": CONNECTIONS, "rounds": rounds}
    for at, what in enumerate(("requests_per_s", "cpu_us_per_request")):
        with_it, without = ([one[at] for one in found[used]] for used in (True, False))
        ratios = [one / other for one, other in zip(with_it, without, strict=True)]
        made[f"{what}_with"] = median(with_it)
        made[f"{what}_without"] = median(without)
        made[f"{what}_ratio"] = round(statistics.median(ratios), 4)
        made[f"{what}_ratio_quartiles"] = [round(ratio, 4) for ratio in statistics.quantiles(ratios, n=4)]
    made["cost"] = round(made["cpu_us_per_request_ratio"] - 1, 4)
    return made
