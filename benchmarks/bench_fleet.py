"""Measure how a fleet grows, and how it survives the loss and the restart of its processes.

    python benchmarks/bench_fleet.py --json fleet.json

The part `live` runs a controller and two workers as processes, and sends them requests:

worker_killed      One of two workers with emulated devices is killed at 60 % of the capacity of both, and started again
                   later. Only requests that were in flight may fail (``failed_after_the_kill`` is 0). The goodput is
                   full again within 2 s after the worker is ready.
controller_killed  The controller of a fleet with 100 models is killed and started again. All models are served again
                   within 5 s, without a client's load.
rolling_restart    Workers and the controller are restarted with SIGTERM, one after the other, under load. The client
                   repeats a request whose response or connection says that the server restarts. No request is lost,
                   gets a wrong output, or gets two responses. At most 0.1 % of the successes are late.

The part `sim` compares the devices that the controller wants with the smallest fleet that would suffice. It simulates
three loads: a step, a ramp, and a synthetic trace of Azure Functions. Each load begins with a fleet that is too small.
Each load is simulated with this fleet, with an autoscaler that starts the wanted devices within 10 s, and with fleets
of constant sizes. The results are:

removed    Share of the refusals of the small fleet that the autoscaler removes, from 30 s after the load begins to
           exceed the fleet.
ratio      Largest ratio of the wanted devices to the smallest fleet that would do. The run is divided into windows of
           30 s. In each window, the smallest fleet is the smallest constant fleet that removes 95 % of the window's
           refusals. The controller holds a peak for five minutes. So the wanted devices of a window are compared with
           the largest of the smallest fleets of the last five minutes.

`--scale` multiplies the load. With larger fleets, rounding to whole devices matters less.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

from fleet_live import LIVE
from msgspec.structs import replace

from clockwork.sim.autoscaler_spec import AutoscalerSpec
from clockwork.sim.devices_spec import DevicesSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import ModelSpec, Scenario
from clockwork.workload.spec import StreamSpec

SEED: Final = 1
WINDOW_S: Final = 30
HOLD_S: Final = 300
STARTUP_S: Final = 10.0
REMOVED: Final = 0.95
"""Share of the refusals that a fleet must remove."""

SLO_MS: Final = 500.0
MIN_REFUSED: Final = 0.01
"""A window in which the small fleet refuses a smaller share of the requests needs no more devices."""

INFER_MS: Final = {"1": 27.3, "2": 40.5, "4": 58.8, "8": 99.3, "16": 173.3}
"""Ten times the times of the ResNet-50 of the paper, so that a run has a tenth of the requests."""


def scenarios(scale: float) -> dict[str, tuple[Scenario, int]]:
    """Return each load, and the second from which its refusals count."""

    def scenario(copies: int, seconds: float, *streams: StreamSpec) -> Scenario:
        return Scenario(
            models=(ModelSpec("slow", copies, load_ms=30, infer_ms=INFER_MS),),
            workload=streams,
            duration_s=seconds,
            warmup_s=0.0,
            bucket_s=1.0,
            slo_ms=SLO_MS,
            devices=DevicesSpec(max(2, round(2 * scale)), 1),
        )

    rate = 110 * scale
    step = scenario(15, 150, StreamSpec("poisson", rate=rate), StreamSpec("poisson", rate=5 * rate, start_s=30))
    ramp = scenario(15, 180, StreamSpec("ramp", rate=rate, rate_end=6 * rate))
    trace = StreamSpec("azure", rate=250 * scale, functions=1000, minutes=5, start_minute=600)
    return {"step": (step, 60), "ramp": (ramp, 30), "azure": (scenario(200, 300, trace), 30)}


class Load:
    """One load, and its runs with fleets of constant sizes."""

    def __init__(self, scenario: Scenario, since: int) -> None:
        self.scenario, self.since = scenario, since
        self._refused: dict[int, list[int]] = {}

    def refused(self, devices: int) -> list[int]:
        """Return the refused requests of each second with this number of devices."""
        if devices not in self._refused:
            begin = time.perf_counter()
            run = Simulation(replace(self.scenario, devices=DevicesSpec(devices, 1)), SEED).run()
            self._refused[devices] = missed(run)
            print(f"  {devices} devices: {sum(missed(run))} refused, {time.perf_counter() - begin:.0f} s", flush=True)
        return self._refused[devices]

    def smallest(self, window: slice, sent: int, most: int) -> int:
        """Return the smallest fleet, up to ``most`` devices, that removes enough refusals in a window."""
        low, high = self.scenario.devices.count, most
        refused = sum(self.refused(low)[window])
        if refused <= MIN_REFUSED * sent:
            return low
        while low < high:
            middle = (low + high) // 2
            if sum(self.refused(middle)[window]) <= (1 - REMOVED) * refused:
                high = middle
            else:
                low = middle + 1
        return low

    def measure(self) -> dict[str, Any]:
        """Return the results of this load."""
        grown = Simulation(
            replace(self.scenario, autoscaler=AutoscalerSpec(max_workers=1000, startup_s=STARTUP_S)), SEED
        ).run()
        assert not grown.watcher.violations, grown.watcher.violations[:3]
        before, after = self.refused(self.scenario.devices.count), missed(grown)
        sent = grown.outcomes.series["sent"]
        most = max(wanted for _, _, wanted in grown.autoscaler.series)
        windows: list[dict[str, Any]] = []
        for begin in range(0, int(self.scenario.duration_s), WINDOW_S):
            window = slice(begin, begin + WINDOW_S)
            wanted = max(w for at, _, w in grown.autoscaler.series if begin < at <= begin + WINDOW_S)
            windows.append(
                {"from_s": begin, "wanted": wanted, "smallest": self.smallest(window, sum(sent[window]), most)}
            )
        for number, row in enumerate(windows):
            held = windows[max(0, number - HOLD_S // WINDOW_S) : number + 1]
            row["ratio"] = row["wanted"] / max(other["smallest"] for other in held)
        return {
            "requests": grown.outcomes.total.sent,
            "refused_before": sum(before[self.since :]),
            "refused_after": sum(after[self.since :]),
            "removed": 1 - sum(after[self.since :]) / max(1, sum(before[self.since :])),
            "ratio": max(row["ratio"] for row in windows),
            "broken_promises": grown.outcomes.total.admitted_missed,
            "windows": windows,
        }


def missed(run: Simulation) -> list[int]:
    """Return the requests of each second that were not in time."""
    series = run.outcomes.series
    return [sent - in_time for sent, in_time in zip(series["sent"], series["in_time"], strict=True)]


def bench_sim(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all loads."""
    results: dict[str, Any] = {"scale": arguments.scale}
    for name, (scenario, since) in scenarios(arguments.scale).items():
        if not arguments.load or name in arguments.load:
            print(name, flush=True)
            results[name] = Load(scenario, since).measure()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", nargs="+", choices=("live", "sim"), default=["live", "sim"])
    parser.add_argument("--only", nargs="+", choices=tuple(LIVE), default=list(LIVE), help="live parts to run")
    parser.add_argument("--scale", type=float, default=2.0, help="factor of the load")
    parser.add_argument("--load", nargs="+", choices=("step", "ramp", "azure"), default=[])
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if "live" in arguments.part:
        results["live"] = {name: LIVE[name]() for name in arguments.only}
    if "sim" in arguments.part:
        results["sim"] = bench_sim(arguments)
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
