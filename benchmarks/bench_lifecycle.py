"""Measure what loading and replacing models costs the requests of other models.

    python benchmarks/bench_lifecycle.py --only sim --json lifecycle.json

The part `sim` simulates 4,026 models on 6 devices with one model replaced every second, and the same load without
replacements. Its result is by how much the replacements lower the share of requests in time. The default load of a
minute takes about a minute of wall time. The full hour takes about an hour, or less with compiled modules:

    make compile
    PYTHONPATH=build/compiled python benchmarks/bench_lifecycle.py --only sim --sim-seconds 3600
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from clockwork.sim.change_spec import ChangeSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import DevicesSpec, ModelSpec, Scenario
from clockwork.workload.spec import StreamSpec

SEED: Final = 1
MODELS: Final = 4026
DEVICES: Final = 6
RATE: Final = 1200.0
"""Requests per second of all models together."""

PAGES: Final = 30_000
"""Pages of each device: all models fit, with room for one more version of some."""

REPLACED_EVERY_S: Final = 1.0


def simulate(scenario: Scenario) -> dict[str, Any]:
    """Run a scenario, and return its outcomes."""
    begin = time.perf_counter()
    simulation = Simulation(scenario, SEED).run()
    assert not simulation.watcher.violations, simulation.watcher.violations[:3]
    total = simulation.outcomes.total
    row = {
        "requests": total.sent,
        "in_time_share": total.in_time / max(1, total.sent),
        "broken_promises": total.admitted_missed,
        "refused": total.refused,
        "wall_s": round(time.perf_counter() - begin, 1),
    }
    return row | ({"changes": simulation.changes.summary()} if scenario.changes else {})


def bench_sim(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the share of requests in time with and without a replacement every second."""
    scenario = Scenario(
        models=(ModelSpec("resnet50", MODELS, "resnet50-v100"),),
        workload=(StreamSpec("poisson", rate=RATE),),
        duration_s=arguments.sim_seconds,
        warmup_s=0.0,
        devices=DevicesSpec(DEVICES, 1, PAGES),
    )
    change = ChangeSpec("replace", at_s=0.5, every_s=REPLACED_EVERY_S, first_factor=2.0, first_count=2)
    without = simulate(scenario)
    replaced = simulate(replace(scenario, changes=(change,)))
    return {
        "simulated_s": arguments.sim_seconds,
        "without": without,
        "replaced": replaced,
        "in_time_share_lost": without["in_time_share"] - replaced["in_time_share"],
    }


PARTS: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {"sim": bench_sim}
"""The parts of the benchmark by name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--only", choices=sorted(PARTS), help="run only this part")
    parser.add_argument(
        "--sim-seconds", type=float, default=60.0, help="simulated duration of the load (3600: the full hour)"
    )
    arguments = parser.parse_args()
    results = {name: part(arguments) for name, part in PARTS.items() if arguments.only in (None, name)}
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
