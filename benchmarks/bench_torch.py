"""Measure how much faster compiled PyTorch programs are on a CPU device, with the worker's runtime.

    python benchmarks/bench_torch.py --json torch.json
    python benchmarks/bench_torch.py --only mlp --seconds 0.05    # a quick test run

Each network has random weights and is exported twice, without and with compiled code. Inferences of both are measured
in turns on one thread, so that other programs disturb both. A time is from the request's payload to the response's
payload, in milliseconds. The keys for each network are:

compile_s           time that --compile adds to the export
code_kb             size of the compiled code, which is in memory only once
read_ms             time to read the program from disk into host memory, including all trials
load_ms, evict_ms   times of LoadWeights and EvictWeights
infer               for each batch size: p50 and p99 of both, and the ratio of the p50s, eager to compiled
grown_kb            growth of resident memory over 100 cycles of LoadWeights, inference and EvictWeights
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

if find_spec("torch") is None:
    print("skipped: PyTorch is not installed")
    sys.exit(0)

import torch
from torch import nn

from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import spec
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.compiling import check_compiler
from clockwork.runtimes.torch.exporting import Example, export

BATCHES = (1, 4, 16)
WARM = 5
MAX_RUNS = 1000
ROUNDS = 100
KIB = 1024


class Conv(nn.Module):
    """A network of six convolutions, like the first half of a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        given = 3
        for i, out in enumerate((32, 64, 64, 128, 128, 256)):
            layers += [nn.Conv2d(given, out, 3, 2 - i % 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            given = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(given, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3))).softmax(-1)


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return the networks, and the shape of a row for each."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 4, 512, batch_first=True)
    return {
        "mlp": (nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)), (64,)),
        "encoder": (nn.TransformerEncoder(layer, 2), (32, 256)),
        "conv": (Conv(), (3, 96, 96)),
    }


def ms(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1e3


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Subject:
    """A loaded model, and a batch of inputs for it."""

    def __init__(self, runtime: TorchRuntime, path: Path, shape: tuple[int, ...]) -> None:
        begin = time.perf_counter()
        self.host = runtime.load_model(path)
        self.read_ms = (time.perf_counter() - begin) * 1e3
        self.name = self.host.info.inputs[0].name
        self.shape = shape

    def once(self, loaded: Any, rows: int) -> Callable[[], object]:
        array = np.random.default_rng(rows).random((rows, *self.shape), np.float32)
        inputs, payloads = [InferInput(1, rows, (spec(self.name, "FP32", array.shape),))], [array.tobytes()]
        return lambda: loaded.split(inputs, loaded.execute(loaded.assemble(inputs, payloads)))

    def loads(self) -> tuple[float, float]:
        times = []
        for _ in range(ROUNDS // 5):
            loaded: list[Any] = []
            load = ms(lambda loaded=loaded: loaded.append(self.host.load_weights(0)))  # type: ignore[misc]
            self.once(loaded[0], 1)()
            times.append((load, ms(loaded[0].close)))
        return statistics.median(it[0] for it in times), statistics.median(it[1] for it in times)

    def grown(self) -> int:
        for at in range(ROUNDS + WARM):
            if at == WARM:
                before = resident()
            loaded = self.host.load_weights(0)
            self.once(loaded, 1)()
            loaded.close()
        return resident() - before


def infer(first: Subject, second: Subject, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    eager, compiled = first.host.load_weights(0), second.host.load_weights(0)
    for rows in BATCHES:
        runs = [first.once(eager, rows), second.once(compiled, rows)]
        for _ in range(WARM):
            once = [ms(run) for run in runs]
        count = min(MAX_RUNS, max(WARM, int(seconds * 1e3 / sum(once))))
        times = [[ms(run) for run in runs] for _ in range(count)]
        both = [sorted(it[i] for it in times) for i in (0, 1)]
        halves = [statistics.median(it) for it in both]
        found[str(rows)] = {
            "runs": count,
            **{
                name: {"p50": round(half, 4), "p99": round(its[int(0.99 * (count - 1))], 4)}
                for name, half, its in zip(("eager", "compiled"), halves, both, strict=True)
            },
            "ratio": round(halves[0] / halves[1], 2),
        }
    eager.close()
    compiled.close()
    return found


def measure(name: str, module: nn.Module, shape: tuple[int, ...], root: Path, seconds: float) -> dict[str, Any]:
    made = export(module, [Example((1, *shape), torch.float32)], True)
    made.save(root / f"{name}.pt2")
    begin = time.perf_counter()
    with_code = made.compiled()
    with_code.save(root / f"{name}_compiled.pt2")
    compile_s = time.perf_counter() - begin
    assert with_code.code is not None
    runtime = TorchRuntime(1, allow_compiled=True)
    eager, compiled = (Subject(runtime, root / f"{it}.pt2", shape) for it in (name, f"{name}_compiled"))
    result: dict[str, Any] = {
        "compile_s": round(compile_s, 1),
        "code_kb": len(with_code.code.binary) // KIB,
        "weights_mb": round(compiled.host.info.weights_bytes / 1e6, 2),
        "infer": infer(eager, compiled, seconds),
    }
    for word, subject in (("eager", eager), ("compiled", compiled)):
        load, evict = subject.loads()
        result[word] = {
            "read_ms": round(subject.read_ms, 1),
            "load_ms": round(load, 3),
            "evict_ms": round(evict, 3),
            "grown_kb": subject.grown() // KIB,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch size")
    parser.add_argument("--only", help="the name of one network")
    given = parser.parse_args()
    try:
        check_compiler()
    except InvalidRequestError as error:
        print(f"skipped: {error}")
        return
    runtime = TorchRuntime(1)
    results: dict[str, Any] = {"device": runtime.device_kind, "runtime": runtime.version}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (module, shape) in networks().items():
            if given.only in (None, name):
                results[name] = measure(name, module, shape, Path(temporary), given.seconds)
    print(json.dumps(results, indent=1))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
