"""Functions that the benchmarks share: to run a server on some cores, to send load, and to print results."""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clockwork.host.affinity import confined
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.ort import onnxruntime

START_LIMIT = 300.0
"""Time in seconds after which a server is killed if it does not serve."""

STOP_LIMIT = 30.0
"""Time in seconds after which a server is killed if it does not stop."""

CLOCKWORK = str(Path(sys.executable).with_name("clockwork"))


@dataclass
class Served:
    """A running server and its addresses. The address of a disabled protocol is empty."""

    process: "subprocess.Popen[str]"
    native: str = ""
    http: str = ""
    grpc: str = ""

    def pids(self) -> list[int]:
        """Return the ids of all processes of the server."""
        found = [self.process.pid]
        for pid in found:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def pss_mb(self) -> float:
        """Return the proportional set size of all processes of the server, in MB."""
        return self._sum(_pss_kib)

    def resident_mb(self) -> float:
        """Return the sum of the resident set sizes of all processes, in MB."""
        return self._sum(lambda pid: _status_kib(pid, "VmRSS"))

    def peak_rss_mb(self) -> float:
        """Return the sum of the peak resident set sizes of all processes since `forget_peak`, in MB."""
        return self._sum(lambda pid: _status_kib(pid, "VmHWM"))

    def _sum(self, kib: Callable[[int], int]) -> float:
        """Return the memory of all processes in MB. A process that has just ended counts as 0."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                total += kib(pid)
        return total * 1024 / 1e6

    def forget_peak(self) -> None:
        """Reset `peak_rss_mb` (proc(5), clear_refs)."""
        for pid in self.pids():
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def running(
    command: list[str], on: Iterable[int], *, session: bool = False, log: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a process on the cores ``on``. When the context ends, the process is stopped, or killed if it does not stop.

    If ``session`` is true, the process is in a separate session, as under systemd and in containers. ``log`` is the
    file for its stderr.
    """
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("w")) if log is not None else None
        with confined(set(on)):
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=session
            )
        stack.enter_context(process)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def started(
    *arguments: object, on: Iterable[int], session: bool = False, log: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run `clockwork serve` on ports that the system chooses. HTTP is disabled unless an argument enables it.

    `running` describes the other parameters.
    """
    command = [CLOCKWORK, "serve", "--listen=127.0.0.1:0", "--http=none", "--log-level=error", *map(str, arguments)]
    with running(command, on, session=session, log=log) as process:
        yield process


@contextmanager
def serving(
    *arguments: object, on: Iterable[int], here: Iterable[int], session: bool = False, log: Path | None = None
) -> Iterator[Served]:
    """Run `clockwork serve` as `started` does, and wait until it serves.

    This process runs on the cores ``here`` until the context ends.
    """
    with started(*arguments, on=on, session=session, log=log) as process:
        served = Served(process)
        watchdog = threading.Timer(START_LIMIT, process.kill)
        watchdog.start()
        try:
            while not served.native:
                _read(served)
        finally:
            watchdog.cancel()
        with confined(set(here)):
            yield served


def _read(served: Served) -> None:
    """Read one line of the server's output."""
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
            raise SystemExit(f"the server ended with {served.process.wait()}: {served.process.args!r}")


def _status_kib(pid: int, field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[field].split()[0])


def _pss_kib(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Pss"].split()[0])


async def closed_loop(
    ask: Callable[[], Awaitable[object]], outstanding: int, duration: float
) -> tuple[float, list[float]]:
    """Run ``outstanding`` clients for ``duration`` seconds. Return requests per second and the latencies in ms."""
    latencies: list[float] = []
    begin = time.perf_counter()

    async def one_after_the_other() -> None:
        while (asked := time.perf_counter()) < begin + duration:
            await ask()
            latencies.append((time.perf_counter() - asked) * 1e3)

    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    return len(latencies) / (time.perf_counter() - begin), latencies


class Bare:
    """A model in this process, which bare ONNX Runtime executes with one thread."""

    def __init__(self, model: Path, inputs: Mapping[str, np.ndarray]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = dict(inputs)
        self.once()

    def once(self, inputs: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Execute the model once, with its own or other inputs, and return its first output."""
        output: np.ndarray = self._session.run(None, self._inputs if inputs is None else dict(inputs))[0]
        return output

    def run(self, duration: float, core: int) -> list[float]:
        """Execute the model on a core for ``duration`` seconds, and return the latencies in ms."""
        latencies = []
        with confined({core}):
            end = time.perf_counter() + duration
            while (begin := time.perf_counter()) < end:
                self.once()
                latencies.append((time.perf_counter() - begin) * 1e3)
        return latencies


def p(values: list[float], percent: float) -> float:
    """Return a percentile."""
    return round(float(np.percentile(values, percent)), 3) if values else 0.0


def median(values: list[float]) -> float:
    """Return the median."""
    return round(statistics.median(values), 3)


def options(doc: str | None, *, seconds: float = 3.0, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"per measurement (default: {seconds:g})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of served and bare (default: {rounds})")
    return parser


def machine() -> dict[str, Any]:
    """Return a description of the machine for the results."""
    return {"machine": f"{os.cpu_count()} cores, {OnnxRuntime().device_kind}"}


def tell(results: Mapping[str, Any], file: Path | None) -> None:
    """Print and write the results."""
    text = json.dumps(results, indent=1)
    print(text)
    if file is not None:
        file.write_text(text + "\n")
