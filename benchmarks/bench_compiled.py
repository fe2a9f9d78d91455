"""Compare the speed of the interpreted and the compiled simulator and scheduler, in turns on one core.

    make compile && python benchmarks/bench_compiled.py --json compiled.json

Both versions run figure 5 of OSDI'20 at 100 ms. Each turn is a new process. The numbers are medians over the turns, and
`ratio` is the median of the ratios of the turns. Rates are per second of processor time. The rate of decisions is per
second of wall time in the scheduler. If the two made different decisions, `same_records` is false and the exit code is
1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench_sim import EXPERIMENTS, SEED, Timed
from msgspec.structs import replace

import clockwork.state.gpu
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import parse_scenario

ROOT = Path(__file__).parents[1]
PLACES = {"interpreted": ROOT / "src", "compiled": ROOT / "build" / "compiled"}
TURN_LIMIT = 300.0
"""Time limit of a turn, in seconds."""


def one_turn(seconds: float) -> dict[str, Any]:
    """Measure simulated requests and decisions per second, and return them with a digest of the records."""
    fig5 = parse_scenario((EXPERIMENTS / "osdi20/fig5.toml").read_text())
    fig5 = replace(fig5, slo_ms=100.0, duration_s=seconds, warmup_s=0.0)
    simulation = Simulation(fig5, SEED)
    simulation.start()
    begin = time.process_time()
    simulation.play()
    spent = time.process_time() - begin
    simulation.finish()
    scheduler = Timed()
    timed = Simulation(fig5, SEED, scheduler=scheduler)
    timed.start()
    timed.play()
    timed.finish()
    total = simulation.outcomes.total
    return {
        "is_compiled": not str(clockwork.state.gpu.__file__).endswith(".py"),
        "requests_per_s": sum(simulation.outcomes.series["sent"]) / spent,
        "decisions_per_s": scheduler.decisions / scheduler.spent,
        "records": [total.sent, total.in_time, total.refused, simulation.loop.events],
    }


def in_process(kind: str, seconds: float) -> dict[str, Any]:
    """Run a turn in a new process. ``kind`` is interpreted or compiled."""
    environment = {**os.environ, "PYTHONPATH": str(PLACES[kind])}
    command = [sys.executable, __file__, "--turn", str(seconds)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TURN_LIMIT, check=True)
    turn: dict[str, Any] = json.loads(run.stdout)
    if turn["is_compiled"] != (kind == "compiled"):
        sys.exit(f"the {kind} turn ran other modules than it should; make compile builds {PLACES['compiled']}")
    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="simulated seconds of one turn")
    parser.add_argument("--turn", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments.turn:
        print(json.dumps(one_turn(arguments.turn)))
        return
    if not PLACES["compiled"].exists():
        results: dict[str, Any] = {"skipped": f"there is no {PLACES['compiled'].relative_to(ROOT)}: make compile"}
    else:
        results = compare(
            [{kind: in_process(kind, arguments.seconds) for kind in PLACES} for _ in range(arguments.turns)]
        )
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if not results.get("same_records", True):
        sys.exit("the compiled and the interpreted run decided differently")


def compare(turns: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the medians over all turns, and the medians of the turns' ratios."""
    results: dict[str, Any] = {"turns": len(turns)}
    for key in ("requests_per_s", "decisions_per_s"):
        row = {kind: statistics.median(turn[kind][key] for turn in turns) for kind in PLACES}
        row["ratio"] = statistics.median(turn["compiled"][key] / turn["interpreted"][key] for turn in turns)
        results[key] = row
    results["same_records"] = all(turn["compiled"]["records"] == turn["interpreted"]["records"] for turn in turns)
    return results


if __name__ == "__main__":
    main()
