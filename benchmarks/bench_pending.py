"""Measure how the controller's cost of an event grows with the number of pending requests.

    python benchmarks/bench_pending.py --json pending.json

The results are the microseconds of processor time for an event with 10 to 100,000 pending requests, for each scheduler
and each kind of event. The results also contain the ratio to the cost with 10 pending requests. If an event concerns
all pending requests (a burst, a lost worker, an expiry), its cost is divided by their number. One cause of higher
ratios is that 100,000 requests do not fit into the processor's cache.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clockwork.scheduling.registry import make_scheduler
from clockwork.testing.backlog import HOUR, Backlog
from clockwork.units import Nanos, ms, us

PENDING = (10, 100, 1_000, 10_000, 100_000)
SCHEDULERS = ("clockwork", "edf", "fifo", "simple")
CHUNKS = 10
EVENTS = 200  # number of events of each kind, or the number of pending requests if this is smaller
LIMIT_S = 60.0  # time limit for one kind of event and one scheduler; after that, larger numbers are skipped

Situation = Callable[[str, int], tuple[float, int]]


def timed(events: int, event: Callable[[], Any]) -> tuple[float, int]:
    """Return the time of all events and the number of events. The time is based on the median of `CHUNKS` parts."""
    gc.collect()
    gc.disable()
    chunks = min(CHUNKS, events)
    spent = []
    for _ in range(chunks):
        begin = time.thread_time()
        for _ in range(events // chunks):
            event()
        spent.append(time.thread_time() - begin)
    gc.enable()
    return sorted(spent)[chunks // 2] * chunks, events


def filled(scheduler: str, pending: int) -> Backlog:
    backlog = Backlog(make_scheduler(scheduler))
    backlog.request(pending, apart=us(1))
    return backlog


def arrive(scheduler: str, pending: int) -> tuple[float, int]:
    backlog = filled(scheduler, pending)
    return timed(EVENTS, lambda: backlog.request(1, HOUR))


def arrive_urgent(scheduler: str, pending: int) -> tuple[float, int]:
    """Measure the arrival of requests whose deadline is before the deadlines of all pending requests."""
    backlog = filled(scheduler, pending)
    return timed(EVENTS, lambda: backlog.request(1, ms(30)))


def cancel(scheduler: str, pending: int) -> tuple[float, int]:
    backlog = filled(scheduler, pending + EVENTS)
    return timed(EVENTS, backlog.cancel)


def result(scheduler: str, pending: int) -> tuple[float, int]:
    backlog = filled(scheduler, pending + 8 * EVENTS)
    return timed(EVENTS, backlog.result)


def burst(slo: Nanos, apart: Nanos) -> Situation:
    def measure(scheduler: str, pending: int) -> tuple[float, int]:
        backlog = Backlog(make_scheduler(scheduler))
        return timed(1, lambda: backlog.request(pending, slo, apart))[0], pending

    return measure


def lose_worker(scheduler: str, pending: int) -> tuple[float, int]:
    backlog = filled(scheduler, pending)
    return timed(1, backlog.lose_worker)[0], pending


def expire(scheduler: str, pending: int) -> tuple[float, int]:
    backlog = filled(scheduler, pending)
    spent = timed(1, lambda: backlog.wait(2 * HOUR))[0]
    assert not backlog.pending
    return spent, pending


SITUATIONS: dict[str, Situation] = {
    "arrive": arrive,
    "arrive_urgent": arrive_urgent,
    "cancel": cancel,
    "result": result,
    "burst_admitted": burst(HOUR, us(1)),
    "burst_refused_equal_deadlines": burst(us(500), 0),
    "burst_refused_different_deadlines": burst(us(500), 1),
    "burst_mostly_refused": burst(ms(20), us(1) // 100),
    "worker_lost": lose_worker,
    "expire": expire,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scheduler", action="append", choices=SCHEDULERS, help="only this one (may be repeated)")
    parser.add_argument("--most", type=int, default=PENDING[-1], help="requests pending at most")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results: dict[str, Any] = {}
    for scheduler in arguments.scheduler or SCHEDULERS:
        for name, situation in SITUATIONS.items():
            costs: dict[str, float] = {}
            for pending in PENDING:
                begin = time.perf_counter()
                if pending <= arguments.most:
                    runs = [situation(scheduler, pending) for _ in range(max(1, min(5, 1000 // pending)))]
                    costs[str(pending)] = min(spent / events for spent, events in runs) * 1e6
                if time.perf_counter() - begin > LIMIT_S:
                    break
            ratios = {pending: cost / costs["10"] for pending, cost in costs.items()}
            results.setdefault(scheduler, {})[name] = {"us_per_event": costs, "ratio_to_10": ratios}
            shown = "  ".join(f"{int(pending):>7,}: {cost:8.1f} us" for pending, cost in costs.items())
            print(f"{scheduler:>9} {name:<34} {shown}  x{ratios[list(ratios)[-1]]:.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
