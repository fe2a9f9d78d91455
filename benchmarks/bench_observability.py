"""Measure the cost of recording requests so that they can be explained.

    python benchmarks/bench_observability.py --json observability.json

Two servers (controller, front end, worker, a 64-64-10 MLP) run on one core. The servers are measured in turns, over
HTTP with 64 connections from another core. One server has the default options, and the other has --explain-requests 0.
``explain_cost`` is the additional processor time of the controller's thread for a request, as a share (limit: 0.02).
Other programs on the machine disturb the ratio of processor times less than the ratio of throughputs, which is reported
too. A ratio is the median over all rounds.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import raw_http
import uvloop
from bench_metrics import CONNECTIONS, ON_ITS_CORE, SLO_MS, WARM_UP, turn
from serving import machine, median, options, serving, tell

from clockwork.zoo import build


async def bench_explain(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the throughput and the processor time per request, with and without recording."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    port, off_option = "--http=127.0.0.1:0", "--explain-requests=0"
    with serving(model, port, **ON_ITS_CORE) as on, serving(model, port, off_option, **ON_ITS_CORE) as off:
        row = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
        request = raw_http.infer_request(on.http, model.stem, row, SLO_MS)
        for served in (on, off):
            await turn(served, request, WARM_UP, False)
        for number in range(rounds):
            for recorded in (True, False) if number % 2 else (False, True):
                found[recorded].append(await turn(on if recorded else off, request, duration, False))
    made: dict[str, Any] = {"connections": CONNECTIONS, "rounds": rounds}
    for at, what in enumerate(("requests_per_s", "cpu_us_per_request")):
        with_it, without = [[one[at] for one in found[recorded]] for recorded in (True, False)]
        ratios = [one / other for one, other in zip(with_it, without, strict=True)]
        made[f"{what}_with"] = median(with_it)
        made[f"{what}_without"] = median(without)
        made[f"{what}_ratio"] = median(ratios)
        made[f"{what}_ratio_quartiles"] = [round(ratio, 4) for ratio in statistics.quantiles(ratios, n=4)]
    made["explain_cost"] = round(made["cpu_us_per_request_ratio"] - 1, 4)
    return made


async def main() -> None:
    """Run the benchmark, and print and write the results."""
    chosen = options(__doc__, seconds=0.4, rounds=60).parse_args()
    results = machine()
    with tempfile.TemporaryDirectory() as directory:
        results |= await bench_explain(build("mlp", Path(directory)), chosen.seconds, chosen.rounds)
    tell(results, chosen.json)


if __name__ == "__main__":
    uvloop.run(main())
