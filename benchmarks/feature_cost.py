"""Measure the cost of a feature of the server. Servers with the feature and without it are measured in turns.

The servers (controller, front end, worker, a 64-64-10 MLP) run on one core. The load comes over HTTP from 16
connections of this process, on another core. With more connections, the number of requests in a batch varies from turn
to turn, and the time for a request varies with it.

Each row of the measurement is one way to run the load:

- ``with``: a server that has the feature
- ``without``: a server that does not have it
- ``same``: a second server like that of ``without``. Its ratio to ``without`` shows the noise of the measurement.

A round is one turn of each row. The order of the rows changes from round to round. So a machine that becomes slower or
faster disturbs all rows equally. Each turn measures two values: requests per second, and the processor time of the
controller's process for each request. Work that a server postpones until after its turn counts too: the processor time
of a turn lasts until the next turn of the same server.

Some work occurs only every few seconds, so the ratios of single rounds would not show it. `GROUP` successive rounds
form a group, and the ratios are those of the groups' sums. The servers are started anew `STARTS` times, because two
processes of the same program differ slightly.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import raw_http
from serving import Served, median, serving

CORES = sorted(os.sched_getaffinity(0))
ON_ITS_CORE: dict[str, Any] = {"on": {CORES[0]}, "here": {CORES[-1]}}
"""Arguments of `serving.serving`: the server's core, and the core of this process."""

SLO_MS = 10_000
OPTIONS = ("--http=127.0.0.1:0", f"--slo={SLO_MS}ms")
"""Arguments of the servers. A busy server assumes the default SLO for a request that it has not read yet."""

CONNECTIONS: Final = 16
WARM_UP: Final = 1.0
"""Duration in seconds of the first turn of each server, which is not counted."""

ROWS: Final = ("with", "without", "same")
ORDERS: Final = tuple(permutations(range(len(ROWS))))

GROUP: Final = 2 * len(ORDERS)
"""Number of rounds whose sums are compared. A group contains every order of the rows equally often."""

STARTS: Final = 3
"""Number of times that the servers are started."""

During: TypeAlias = Callable[[Served], AbstractAsyncContextManager[object]]
"""Returns a context that is open during a turn, for example an open connection that uses the feature."""

Servers: TypeAlias = Callable[[], AbstractContextManager[Sequence[Served]]]
"""Starts the servers of the rows, in the order of `ROWS`. The servers of several rows may be the same server."""


def servers(model: Path, having: Sequence[str] = (), lacking: Sequence[str] = ()) -> Servers:
    """Return a function that starts a server with the options ``having``, and two with the options ``lacking``."""

    @contextmanager
    def start() -> Iterator[Sequence[Served]]:
        with ExitStack() as stack:
            every = (having, lacking, lacking)
            yield [stack.enter_context(serving(model, *OPTIONS, *each, **ON_ITS_CORE)) for each in every]

    return start


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


class Turns:
    """The turns of the rows of one start of the servers."""

    def __init__(self, servers: Sequence[Served], request: bytes, duration: float, during: During) -> None:
        """``duration`` is the length of a turn in seconds. ``during`` is open in the turns with the feature."""
        self._servers = servers
        self._request, self._duration, self._during = request, duration, during
        self._open: dict[int, tuple[int, int]] = {}  #: last row, and processor time before it, of each process
        self.requests: list[int] = [0] * len(ROWS)
        self.cpu: list[int] = [0] * len(ROWS)
        self.rates: list[list[float]] = [[] for _ in ROWS]

    async def warm_up(self) -> None:
        """Send requests to each server, so that later turns find it ready."""
        for served in self._servers:
            await raw_http.closed_loop(served.http, self._request, CONNECTIONS, WARM_UP)

    async def turn(self, row: int) -> None:
        """Run the load of one row."""
        served = self._servers[row]
        self._close(served)
        async with (self._during if row == 0 else nothing)(served):
            self._open[served.process.pid] = row, cpu_ns(served)  # opening the context is not part of the turn
            rate, latencies = await raw_http.closed_loop(served.http, self._request, CONNECTIONS, self._duration)
        self.rates[row].append(rate)
        self.requests[row] += len(latencies)

    def _close(self, served: Served) -> None:
        """Add the processor time since the begin of a server's last turn to the turn's row."""
        row, before = self._open.pop(served.process.pid, (0, 0))
        if before:
            self.cpu[row] += cpu_ns(served) - before

    async def group(self) -> list[tuple[float, float]]:
        """Run the rounds of a group. Return, by row, requests per second and microseconds of processor time."""
        self.requests, self.cpu, self.rates = [0] * len(ROWS), [0] * len(ROWS), [[] for _ in ROWS]
        for number in range(GROUP):
            for row in ORDERS[number % len(ORDERS)]:
                await self.turn(row)
        for served in self._servers:
            self._close(served)
        return [
            (statistics.fmean(rates), cpu / requests / 1000)
            for rates, cpu, requests in zip(self.rates, self.cpu, self.requests, strict=True)
        ]


async def feature_cost(
    servers: Servers, model: str, duration: float, rounds: int, during: During = nothing
) -> dict[str, Any]:
    """Measure the cost of a feature with turns of ``duration`` seconds and at least this many ``rounds``.

    ``during`` is open in the turns of the row ``with``. The result contains, for throughput and for processor time, the
    median of each row, and the median and the quartiles of the groups' ratios of ``with`` and ``same`` to ``without``.
    ``cost`` is the additional processor time for a request, as a share; ``noise`` is the same for ``same``.
    """
    groups: list[list[tuple[float, float]]] = []
    for _ in range(STARTS):
        with servers() as started:
            turns = Turns(started, mlp_request(started[0], model), duration, during)
            await turns.warm_up()
            groups += [await turns.group() for _ in range(max(1, round(rounds / GROUP / STARTS)))]
    made: dict[str, Any] = {"connections": CONNECTIONS, "rounds": len(groups) * GROUP, "groups": len(groups)}
    for at, what in enumerate(("requests_per_s", "cpu_us_per_request")):
        values = [[group[row][at] for group in groups] for row in range(len(ROWS))]
        for name, found in zip(ROWS, values, strict=True):
            made[f"{what}_{name}"] = median(found)
        for row, name in ((0, "ratio"), (2, "ratio_same")):
            ratios = [one / other for one, other in zip(values[row], values[1], strict=True)]
            made[f"{what}_{name}"] = round(statistics.median(ratios), 4)
            made[f"{what}_{name}_quartiles"] = [round(ratio, 4) for ratio in statistics.quantiles(ratios, n=4)]
    made["cost"] = round(made["cpu_us_per_request_ratio"] - 1, 4)
    made["noise"] = round(made["cpu_us_per_request_ratio_same"] - 1, 4)
    return made
