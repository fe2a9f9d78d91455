"""Measure the speed of the simulator and the Clockwork scheduler on one core.

    python benchmarks/bench_sim.py --json sim.json

The results are simulated requests per second of wall time for three scenarios: (a) figure 5 of OSDI'20 at 100 ms, (b)
4,026 models on 6 devices, and (c) 1,000 devices. Ratios show how the cost of a request grows from 10 to 4,000 models.
Other ratios show how this cost grows from 1 to 1,000 devices, with the same load for each device. The time of the
scheduler's decisions is the time in its methods during (a).
"""

import argparse
import cProfile
import json
import os
import pstats
import resource
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.sim.devices_spec import DevicesSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import ModelSpec, Scenario, parse_scenario
from clockwork.workload.spec import StreamSpec

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SEED = 1


class Timed(ClockworkScheduler):
    """The Clockwork scheduler, which also measures the time in its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.spent = 0.0
        self.decisions = 0

    def _timed(self, method: Any, *args: Any) -> Any:
        begin = time.perf_counter()
        try:
            return method(*args)
        finally:
            self.spent += time.perf_counter() - begin

    def infer(self, now: int, request: Any) -> Any:
        self.decisions += 1
        return self._timed(super().infer, now, request)

    def result(self, now: int, gpu: Any, action: Any, result: Any) -> Any:
        return self._timed(super().result, now, gpu, action, result)

    def wake(self, now: int) -> Any:
        return self._timed(super().wake, now)


def measure(scenario: Scenario, scheduler: ClockworkScheduler | None = None) -> dict[str, Any]:
    """Run a scenario, and measure its speed. Start-up, loading and the time after the load are not counted."""
    simulation = Simulation(scenario, SEED, scheduler=scheduler)
    simulation.start()
    begin, events = time.perf_counter(), simulation.loop.events
    simulation.play()
    wall = time.perf_counter() - begin
    simulation.finish()
    assert not simulation.watcher.violations, simulation.watcher.violations[:1]
    sent = sum(simulation.outcomes.series["sent"])
    return {
        "requests": sent,
        "in_time_share": simulation.outcomes.total.in_time / max(1, simulation.outcomes.total.sent),
        "wall_s": wall,
        "requests_per_s": sent / wall,
        "us_per_request": wall / sent * 1e6,
        "events_per_s": (simulation.loop.events - events) / wall,
    }


def poisson(models: int, devices: int, rate: float, duration: float, pages: int = 1376) -> Scenario:
    """Return a scenario of ResNet-50 copies under a Poisson load."""
    return Scenario(
        models=(ModelSpec("resnet50", models, "resnet50-v100"),),
        workload=(StreamSpec("poisson", rate=rate),),
        duration_s=duration,
        warmup_s=0.0,
        devices=DevicesSpec(devices, 1, pages),
    )


def show_profile(scenario: Scenario) -> None:
    """Print the share of each package in the time of a run.

    The time of functions that a package calls is not included.
    """
    simulation = Simulation(scenario, SEED)
    simulation.start()
    profile = cProfile.Profile()
    profile.runcall(simulation.play)
    spent: dict[str, float] = {}
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        room = file.partition("/clockwork/")[2].partition("/")[0] if "/clockwork/" in file else "Python"
        spent[room] = spent.get(room, 0.0) + own
    total = sum(spent.values())
    for room, own in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{own / total:6.1%}  {room}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true", help="print where the time of (a) goes, and nothing else")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    fig5 = parse_scenario((EXPERIMENTS / "osdi20/fig5.toml").read_text())
    fig5 = replace(fig5, slo_ms=100.0, duration_s=20.0, warmup_s=0.0)
    if arguments.profile:
        show_profile(fig5)
        return
    scheduler = Timed()
    results: dict[str, Any] = {
        "fig5": measure(fig5),
        "models_4026": measure(poisson(4026, 6, 1200, 15, pages=30_000)),
        "devices_1000": measure(poisson(1000, 1000, 50_000, 0.5)),
    }
    measure(fig5, scheduler)
    results["scheduler_decisions_per_s"] = scheduler.decisions / scheduler.spent
    few, many = (measure(poisson(models, 1, 200, 20, pages=30_000)) for models in (10, 4000))
    results["cost_ratio_10_to_4000_models"] = many["us_per_request"] / few["us_per_request"]
    one, thousand = (measure(poisson(50, devices, 100.0 * devices, 20 / devices + 0.3)) for devices in (1, 1000))
    results["cost_ratio_1_to_1000_devices"] = thousand["us_per_request"] / one["us_per_request"]
    results["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
