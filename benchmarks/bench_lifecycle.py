"""Measure what loading and replacing models costs the requests of other models.

    python benchmarks/bench_lifecycle.py --only sim --json lifecycle.json

The parts are:

latency  A model is requested at half the device's capacity while resnet50, densenet121 and vgg19 are loaded, measured,
         executed and unloaded over and over. The key `p99_ratio_while_loading` compares its p99 with that without
         loads. The key `goodput_ratio_while_loading` compares the shares of requests in time, because a server that
         refuses more requests has a better p99. The loaded models are executed once each, and these executions delay
         the other requests as well. The key `failed_beside_other_inferences` counts the requests that failed next to
         such an execution. The row `spare_core` has all cores, and the row `one_core` has one for
         the whole server.
ready    Time from the request for a load of resnet50 until the model is ready, with a cold and a warm model cache. The
         key `bare_s` is the time of a session of ONNX Runtime with one inference for each batch size.
swaps    Two versions of a model replace each other while requests arrive over three protocols. Each answer must be bit
         for bit that of one version, and after a swap that of the new version.
memory   Growth of the resident memory from the 20th to the last cycle of loads, inferences and unloads.
sim      The simulation below.

The part `sim` simulates 4,026 models on 6 devices with one model replaced every second, and the same load without
replacements. Its result is by how much the replacements lower the share of requests in time. The default load of a
minute takes about a minute of wall time. The full hour takes about an hour, or less with compiled modules:

    make compile
    PYTHONPATH=build/compiled python benchmarks/bench_lifecycle.py --only sim --sim-seconds 3600
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import lifecycle_live as live
from msgspec.structs import replace

from clockwork.sim.change_spec import ChangeSpec
from clockwork.sim.devices_spec import DevicesSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import ModelSpec, Scenario
from clockwork.workload.spec import StreamSpec

CORES: Final = sorted(os.sched_getaffinity(0))[:2]
"""Cores of the server. The load generator runs on the last one."""

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


def bench_latency(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the latency of one model with and without loads of others, on two cores and on one."""
    with tempfile.TemporaryDirectory(prefix="clockwork-bench-") as directory:
        place, seconds, rounds = Path(directory), arguments.seconds, arguments.rounds
        return {
            "spare_core": live.bench_latency(place, CORES, CORES[-1], seconds, rounds),
            "one_core": live.bench_latency(place, CORES[:1], CORES[-1], seconds, rounds),
        }


def bench_ready(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure how soon a loaded model is ready."""
    with tempfile.TemporaryDirectory(prefix="clockwork-bench-") as directory:
        return live.bench_ready(Path(directory) / "models", Path(directory) / "cache", CORES, CORES[-1])


def bench_swaps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Swap versions under load over three protocols."""
    with tempfile.TemporaryDirectory(prefix="clockwork-bench-") as directory:
        return live.bench_swaps(Path(directory), CORES, CORES[-1], arguments.swaps)


def bench_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load and unload models over and over."""
    with tempfile.TemporaryDirectory(prefix="clockwork-bench-") as directory:
        return live.bench_memory(Path(directory) / "models", CORES, CORES[-1], arguments.cycles)


PARTS: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "latency": bench_latency,
    "ready": bench_ready,
    "swaps": bench_swaps,
    "memory": bench_memory,
    "sim": bench_sim,
}
"""The parts of the benchmark by name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--only", choices=sorted(PARTS), nargs="+", default=list(PARTS), help="run only these parts")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each load of the part latency")
    parser.add_argument("--rounds", type=int, default=2, help="loads with and without changes in the part latency")
    parser.add_argument("--swaps", type=int, default=100, help="swaps in the part swaps")
    parser.add_argument("--cycles", type=int, default=200, help="loads and unloads in the part memory")
    parser.add_argument(
        "--sim-seconds", type=float, default=60.0, help="simulated duration of the load (3600: the full hour)"
    )
    arguments = parser.parse_args()
    results = {name: part(arguments) for name, part in PARTS.items() if name in arguments.only}
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
