"""What benchmarks of a server share: the server on its cores, loads, and how results are told."""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clockwork.host.affinity import confined
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.ort import onnxruntime

CLOCKWORK = str(Path(sys.executable).with_name("clockwork"))


@dataclass
class Served:
    """A server that serves, and where; "" where it does not."""

    process: "subprocess.Popen[str]"
    native: str = ""
    http: str = ""
    grpc: str = ""

    def pids(self) -> list[int]:
        """Of all its processes."""
        found = [self.process.pid]
        for pid in found:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def pss_mb(self) -> float:
        """Proportional set size of all its processes, in MB."""
        return sum(_pss_kib(pid) for pid in self.pids()) * 1024 / 1e6


@contextmanager
def started(*arguments: object, on: Iterable[int]) -> Iterator["subprocess.Popen[str]"]:
    """`clockwork serve` confined to cores ``on``, on ports of the system's choice; no HTTP unless asked for."""
    command = [CLOCKWORK, "serve", "--listen=127.0.0.1:0", "--http=none", "--log-level=error", *map(str, arguments)]
    with confined(set(on)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def serving(*arguments: object, on: Iterable[int], here: Iterable[int]) -> Iterator[Served]:
    """`started`, and serving; this process runs on ``here`` meanwhile."""
    with started(*arguments, on=on) as process:
        served = Served(process)
        while not served.native:
            _read(served)
        with confined(set(here)):
            yield served


def _read(served: Served) -> None:
    """One line of what the server says of itself."""
    assert served.process.stdout is not None
    line = served.process.stdout.readline()
    match line.split():
        case ["clockwork", "serves", "HTTP", "on", address]:
            served.http = address
        case ["clockwork", "serves", "gRPC", "on", address]:
            served.grpc = address
        case ["clockwork", "is", "serving", *_, address]:
            served.native = address
        case []:
            raise SystemExit(
                f"the server ended with {served.process.wait()}: {' '.join(map(str, served.process.args))}"
            )


def _pss_kib(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Pss"].split()[0])


async def closed_loop(
    ask: Callable[[], Awaitable[object]], outstanding: int, duration: float
) -> tuple[float, list[float]]:
    """``outstanding`` clients for ``duration`` seconds: requests per second, and the latencies in ms."""
    latencies: list[float] = []
    begin = time.perf_counter()

    async def one_after_the_other() -> None:
        while (asked := time.perf_counter()) < begin + duration:
            await ask()
            latencies.append((time.perf_counter() - asked) * 1e3)

    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    return len(latencies) / (time.perf_counter() - begin), latencies


class Bare:
    """A model on bare ONNX Runtime with one thread, in this process."""

    def __init__(self, model: Path, inputs: Mapping[str, np.ndarray]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = dict(inputs)
        self.once()

    def once(self) -> None:
        """Execute it."""
        self._session.run(None, self._inputs)

    def run(self, duration: float, core: int) -> list[float]:
        """Latencies in ms of a loop of ``duration`` seconds on a core."""
        latencies = []
        with confined({core}):
            end = time.perf_counter() + duration
            while (begin := time.perf_counter()) < end:
                self.once()
                latencies.append((time.perf_counter() - begin) * 1e3)
        return latencies


def p(values: list[float], percent: float) -> float:
    """A percentile."""
    return round(float(np.percentile(values, percent)), 3) if values else 0.0


def median(values: list[float]) -> float:
    """The middle one."""
    return round(statistics.median(values), 3)


def options(doc: str | None, *, seconds: float = 3.0, rounds: int) -> argparse.ArgumentParser:
    """The options that these benchmarks have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"per measurement (default: {seconds:g})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of served and bare (default: {rounds})")
    return parser


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"machine": f"{os.cpu_count()} cores, {OnnxRuntime().device_kind}"}


def tell(results: Mapping[str, Any], file: Path | None) -> None:
    """Print, and write, the results."""
    text = json.dumps(results, indent=1)
    print(text)
    if file is not None:
        file.write_text(text + "\n")
