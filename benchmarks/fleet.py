"""Run a fleet of emulated devices. The controller uses one core, and a worker with all devices uses another core.

    python benchmarks/fleet.py --devices 32 --rate 5000

The program prints the results of one run as JSON: the share of requests in time, and the CPU time of each process for
each request. The load generator is a third process, for which the kernel chooses a core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOCKWORK = str(Path(sys.executable).with_name("clockwork"))
CORES = sorted(os.sched_getaffinity(0))
MODELS = 15
SLO_MS = 100
TICKS = os.sysconf("SC_CLK_TCK")

SCENARIO = """
duration_s = {duration}
warmup_s = 1
slo_ms = {slo}

[[models]]
name = "resnet50-v100"
copies = {models}
profile = "resnet50-v100"

[[workload]]
kind = "poisson"
rate = {rate}
"""


@dataclass
class Fleet:
    """The processes and the address of a run."""

    address: str
    controller: int
    worker: int


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def fleet(devices: int) -> Iterator[Fleet]:
    """Start a controller and its worker, each on a separate core."""
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("w") as log:
        command = [CLOCKWORK, "controller", "--listen=127.0.0.1:0", "--http=none", "--worker-listen=127.0.0.1:0"]
        with started([*command, "--no-profile-cache", "--load-timeout=1s"], CORES[0], log) as controller:
            clients, workers = (said(log, controller, f"listening for clients on {place}") for place in ("", "*"))
            command = [CLOCKWORK, "worker", f"--controller={workers}", f"--emulate={devices}"]
            with started([*command, "--profile=resnet50-v100"], CORES[-1], log) as worker:
                run(CLOCKWORK, "load", "resnet50-v100", f"--copies={MODELS}", f"--address={clients}")
                yield Fleet(clients, controller.pid, worker.pid)


def play(fleet: Fleet, rate: float, seconds: float = 8, seed: int = 1) -> dict[str, Any]:
    """Send requests with Poisson arrivals at ``rate`` requests/s. The worker generates the inputs."""
    with tempfile.TemporaryDirectory() as directory:
        scenario, out = Path(directory) / "scenario.toml", Path(directory) / "out.json"
        scenario.write_text(SCENARIO.format(duration=seconds + 1, slo=SLO_MS, models=MODELS, rate=rate))
        before = cpu_s(fleet.controller), cpu_s(fleet.worker)
        command = [
            CLOCKWORK,
            "load-test",
            fleet.address,
            str(scenario),
            "--generated",
            f"--seed={seed}",
            f"--json={out}",
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:  # the server read requests too slowly
            return {"rate": rate, "in_time_share": 0.0, "failed": done.stderr.strip()}
        spent = cpu_s(fleet.controller) - before[0], cpu_s(fleet.worker) - before[1]
        row = json.loads(out.read_text())["rows"][0]
    requests = row["sent"] * (seconds + 1) / seconds
    return {
        "rate": rate,
        "in_time_share": row["in_time_share"],
        "batch_size_mean": row["batch_size_mean"],
        "latency_ms_p50": row["latency_ms_p50"],
        "latency_ms_p99": row["latency_ms_p99"],
        "refused": row["refused"],
        "admitted_missed": row["admitted_missed"],
        "controller_us_per_request": round(spent[0] / requests * 1e6, 1),
        "worker_us_per_request": round(spent[1] / requests * 1e6, 1),
    }


@contextmanager
def started(command: list[str], core: int, log: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process on a core. The process ends when the context ends."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.DEVNULL, stderr=log, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def said(log: Any, process: subprocess.Popen[str], what: str) -> str:
    """Wait for a line of the controller's log, and return an address in it: for clients, or for workers (``*``)."""
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        for line in Path(log.name).read_text().splitlines():
            if "listening for clients on " in line:
                clients, workers = line.split("listening for clients on ")[1].split(", for workers on ")
                return workers if what.endswith("*") else clients
        time.sleep(0.05)
    raise SystemExit(f"the controller does not say where it listens: {Path(log.name).read_text()}")


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=32)
    parser.add_argument("--rate", type=float, nargs="+", default=[5000.0])
    parser.add_argument("--seconds", type=float, default=8)
    given = parser.parse_args()
    with fleet(given.devices) as running:
        for wanted in given.rate:
            print(json.dumps(play(running, wanted, given.seconds)), flush=True)
