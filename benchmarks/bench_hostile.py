"""Measure how much expensive inputs delay other requests, and how much the server's memory grows.

    python benchmarks/bench_hostile.py --json hostile.json

For each input of ``hostile_inputs.py``, a new server (controller, front ends, worker) runs on one core. From another
core, this program sends health checks and tiny inferences (a 64-64-10 MLP over HTTP), each on a separate connection. A
third process sends the input. The keys for each input are:

statuses           number of responses to the input for each status
health_ms_max      longest time of a health check; the limit is 100
tiny_ms_max        longest time of a tiny inference; the limit is 150
peak_mb            largest growth of the controller's resident memory; the limit is 300
lasting_mb         growth of the controller's resident memory two seconds after the last response; the limit is 20
worker_lasting_mb  the same for the worker
quiet_*            the same times in a second without input, for comparison
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hostile_inputs
import numpy as np
import raw_http
import uvloop
from serving import Served, machine, options, serving, tell

from clockwork.zoo import build

CORES = sorted(os.sched_getaffinity(0))
ALL = set(CORES)
MODELS = 4000
BARS = {"health_ms_max": 100.0, "tiny_ms_max": 150.0, "peak_mb": 300.0, "lasting_mb": 20.0}
SETTLES = 2.0
HEALTH = b"GET /v2/health/ready HTTP/1.1\r\nHost: here\r\n\r\n"
EMULATED = ("--emulate=1", "--profile=resnet50-v100", f"--copies={MODELS}")
PORTS = ("--http=127.0.0.1:0", "--grpc=127.0.0.1:0")


def resident_mb(pid: int, key: str = "VmRSS") -> float:
    """Return the resident memory of a process, or its peak since the last reset if the key is VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"/proc/{pid}/status has no {key}")


def reset_peak(pid: int) -> None:
    """Reset the peak of a process's resident memory (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Probes:
    """Two loops that send health checks and tiny inferences, and the longest time of each kind."""

    def __init__(self, served: Served, tiny: bytes) -> None:
        self._served = served
        self._asked = {"health": HEALTH, "tiny": tiny}
        self.longest = dict.fromkeys(self._asked, 0.0)
        self._ended = False

    async def run(self) -> None:
        """Send requests until `end` is called."""
        await asyncio.gather(*(self._one(name) for name in self._asked))

    def end(self) -> None:
        """End the loops after the requests in flight."""
        self._ended = True

    async def _one(self, name: str) -> None:
        connection = await raw_http.connect(self._served.http)
        while not self._ended:
            begin = time.perf_counter()
            status = await connection.ask(self._asked[name])
            self.longest[name] = max(self.longest[name], (time.perf_counter() - begin) * 1e3)
            if status != 200:
                raise SystemExit(f"the {name} probe was answered {status}: {connection.body[:200]!r}")
            await asyncio.sleep(0.002)
        connection.transport.close()


class Sender:
    """The process that sends an input."""

    def __init__(self, name: str, served: Served) -> None:
        self._arguments = (name, served.http, served.grpc, served.native)

    async def __aenter__(self) -> "Sender":
        script = str(Path(__file__).with_name("hostile_inputs.py"))
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            "nice", "-n", "5", sys.executable, script, *self._arguments, stdin=pipe, stdout=pipe
        )
        await self._line()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()

    async def send(self) -> Any:
        """Send the input, and return the statuses of the responses."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()
        return json.loads(await self._line())

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._arguments)}: the sender ended")
        return line


async def watched(served: Served, tiny: bytes, work: Any) -> tuple[dict[str, float], Any]:
    """Return the longest times of health checks and tiny inferences during ``work``, and the result of ``work``."""
    probes = Probes(served, tiny)
    probing = asyncio.ensure_future(probes.run())
    await asyncio.sleep(0.2)
    try:
        result = await work
    finally:
        probes.end()
        await probing
    return probes.longest, result


async def bench(name: str, served: Served, tiny: bytes) -> dict[str, Any]:
    """Measure the effect of one input."""
    controller, *workers = served.pids()
    async with Sender(name, served) as sender:
        quiet, _ = await watched(served, tiny, asyncio.sleep(1.0))
        await asyncio.sleep(SETTLES)
        before, worker_before = resident_mb(controller), sum(map(resident_mb, workers))
        reset_peak(controller)
        longest, statuses = await watched(served, tiny, sender.send())
        peak = resident_mb(controller, "VmHWM")
    await asyncio.sleep(SETTLES)
    return {
        "statuses": statuses,
        "health_ms_max": round(longest["health"], 1),
        "tiny_ms_max": round(longest["tiny"], 1),
        "peak_mb": round(peak - before, 1),
        "lasting_mb": round(resident_mb(controller) - before, 1),
        "worker_lasting_mb": round(sum(map(resident_mb, workers)) - worker_before, 1),
        "quiet_health_ms_max": round(quiet["health"], 1),
        "quiet_tiny_ms_max": round(quiet["tiny"], 1),
    }


def tiny_request(name: str, served: Served) -> bytes:
    """Return the request of the tiny inference. An emulated server has no MLP, so its model is a profile."""
    if name == "descriptions":
        data = np.zeros((1, 3, 224, 224), np.float32)
        return raw_http.infer_request(served.http, "resnet50-v100-1", data, 10_000)
    return raw_http.infer_request(served.http, "mlp", np.zeros((1, 64), np.float32), 10_000)


async def main() -> None:
    """Measure and print the results."""
    parser = options(__doc__, rounds=1)
    names = list(hostile_inputs.INPUTS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="send only these")
    given = parser.parse_args()
    results: dict[str, Any] = machine()
    with tempfile.TemporaryDirectory() as directory:
        models = [build("mlp", Path(directory)), *hostile_inputs.build_models(Path(directory))]
        for name in given.only:
            what = EMULATED if name == "descriptions" else (*models, "--slo=60s")
            with serving(*PORTS, *what, on=ALL, here=ALL) as served:
                results[name] = await bench(name, served, tiny_request(name, served))
            print(name, results[name], file=sys.stderr, flush=True)
    measured = [results[name] for name in given.only]
    results["worst"] = {key: max(it[key] for it in measured) for key in BARS}
    results["over"] = [f"{name}.{key}" for name in given.only for key, bar in BARS.items() if results[name][key] > bar]
    tell(results, given.json)


if __name__ == "__main__":
    uvloop.run(main())
