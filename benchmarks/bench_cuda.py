"""Measure PyTorch programs on CUDA device 0, with the worker's runtime.

    python benchmarks/bench_cuda.py --json cuda.json
    python benchmarks/bench_cuda.py --smoke    # a test run of seconds on the CPU, with the tests' fake device

There are two networks with random weights, in fp32 and fp16: a network like ResNet-50, and a transformer encoder like
BERT-base (128 tokens). Without a GPU, the program prints a message and ends. Times are in milliseconds. ``host`` times
are measured with the caller's clock, and ``device`` times with the device's clock. The keys for each network are:

load_gb_s            bandwidth of LoadWeights, measured with the device's clock
plain_gb_s           bandwidth of a plain copy of the same size from pinned memory, measured in turns with LoadWeights
load_ms              time of LoadWeights, measured with the caller's clock
swap_ms              time to evict the weights and to load another network into their pages
infer                for each batch size: p50, p99, p99.99 and p99.99 / p50 of an inference, and ``eager``, the p50 of
                     its operators when they are executed one by one
infer_while_loading  the same for one row, while another network is loaded and unloaded
served               results of ``cuda_served.py``, with 10 times as many models as fit into the weights cache
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

if find_spec("torch") is None:
    print("skipped: PyTorch is not installed")
    sys.exit(0)

import cuda_served
import torch
from torch import nn

from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import spec
from clockwork.runtimes.torch.cuda.runtime import CudaRuntime
from clockwork.runtimes.torch.exporting import Example, export
from clockwork.runtimes.torch.weights import host_block
from clockwork.units import GIB, MIB

PAGE = 16 * MIB
BATCHES = (1, 2, 4, 8, 16)
LOADS = 50


class Bottleneck(nn.Module):
    def __init__(self, width: int, out: int, stride: int, given: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.side = (
            nn.Sequential(nn.Conv2d(given, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1 or given != out
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.main(x) + self.side(x))


class ResNet(nn.Module):
    """ResNet-50 with 64 channels and depths 3, 4, 6, 3."""

    def __init__(self, width: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        given = width
        for stage, depth in enumerate(depths):
            its = width << stage
            for i in range(depth):
                layers.append(Bottleneck(its, 4 * its, 2 if stage and not i else 1, given))
                given = 4 * its
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(given, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = x.shape
        q, k, v = (
            it.reshape(rows, tokens, self.heads, width // self.heads).transpose(1, 2)
            for it in self.into(self.first(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, width)
        x = x + self.out(mixed)
        return x + self.wide(self.second(x))


class Encoder(nn.Module):
    """BERT-base without its embedding table: 12 layers, 768 wide, 12 heads."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean(1)


def networks(smoke: bool) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    if smoke:
        return {"resnet": (ResNet(4, (1, 1)), (3, 32, 32)), "encoder": (Encoder(16, 1, 2), (8, 16))}
    return {"resnet50": (ResNet(), (3, 224, 224)), "encoder": (Encoder(), (128, 768))}


def percentiles(samples: list[float]) -> dict[str, float]:
    """Return percentiles of times in milliseconds. With fewer than 10,000 samples, p99.99 is the longest time."""
    ranked = sorted(samples)

    def at(percent: float) -> float:
        return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]

    p50, tail = at(50), at(99.99)
    return {
        "runs": len(ranked), "p50": round(p50, 4), "p99": round(at(99), 4), "p99_99": round(tail, 4),
        "p99_99_over_p50": round(tail / p50, 5) if p50 else 0.0,
    }  # fmt: skip


class Subject:
    """A network on the device, and an input for it."""

    def __init__(self, runtime: CudaRuntime, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.device = runtime.devices[0]
        self.host = runtime.load_model(path)
        self.shape = shape
        self.dtype = dtype
        self.weights = self.host.info.weights_bytes

    def batch(self, rows: int) -> tuple[list[InferInput], list[bytes]]:
        array = np.random.default_rng(rows).random((rows, *self.shape), np.float32).astype(self.dtype)
        info = self.host.info.inputs[0]
        return [InferInput(0, rows, (spec(info.name, info.datatype, array.shape),))], [array.tobytes()]

    def infer(self, loaded: Any, rows: int, runs: int) -> dict[str, Any]:
        inputs, payloads = self.batch(rows)
        host: list[float] = []
        device: list[float] = []
        clocks: set[int] = set()
        for _ in range(runs):
            batch = loaded.assemble(inputs, payloads)
            begin = time.perf_counter()
            outputs = loaded.execute(batch)
            host.append((time.perf_counter() - begin) * 1e3)
            loaded.split(inputs, outputs)
            measured = loaded.device_time(outputs)
            device.append(measured.duration / 1e6)
            clocks.add(measured.clock_mhz)
        return {"host": percentiles(host), "device": percentiles(device), "clock_mhz": [min(clocks), max(clocks)]}

    def eager(self, loaded: Any, rows: int, runs: int) -> float:
        """Return the median device time of an inference whose operators are executed one by one."""
        batch = loaded.assemble(*self.batch(rows))
        work = self.host.residents[0].graphs.operators(batch.staged.layout)
        computed = [self.device.compute(batch.staged, work) for _ in range(2)][-1:]
        samples = []
        for _ in range(runs):
            computed = [self.device.compute(batch.staged, work)]
            samples.append(self.device.device_time(computed[0]).duration / 1e6)
        return round(float(np.median(samples)), 4)


def plain_copies(subject: Subject, loads: int) -> Callable[[], float]:
    """Return a function that measures the GB/s of a copy of the weights' size from pinned memory to the device."""
    device, size = subject.device, max(1, subject.weights)
    block = host_block(size)
    device.driver.pin(block.data_ptr(), size)
    to = device.driver.allocate(size)

    def copy() -> float:
        return size / device.copy_weights(to, block.data_ptr(), size)

    def close() -> None:
        device.driver.unpin(block.data_ptr())
        device.driver.free(to)

    copy.close = close  # type: ignore[attr-defined]
    return copy


def measure_loads(subject: Subject, other: Subject, loads: int) -> dict[str, float]:
    plain = plain_copies(subject, loads)
    mine, raw, wall, swaps = [], [], [], []
    for _ in range(loads):
        begin = time.perf_counter()
        loaded = subject.host.load_weights(0)
        wall.append(time.perf_counter() - begin)
        mine.append(subject.weights / loaded.copied)
        raw.append(plain())
        begin = time.perf_counter()
        loaded.close()
        another = other.host.load_weights(0)
        swaps.append(time.perf_counter() - begin)
        another.close()
    plain.close()  # type: ignore[attr-defined]
    return {
        "weights_mb": round(subject.weights / 1e6, 1),
        "load_gb_s": round(float(np.median(mine)), 2),
        "plain_gb_s": round(float(np.median(raw)), 2),
        "load_over_plain": round(float(np.median(mine) / np.median(raw)), 4),
        "load_ms": round(float(np.median(wall)) * 1e3, 3),
        "swap_ms": round(float(np.median(swaps)) * 1e3, 3),
    }


def while_loading(subject: Subject, other: Subject, runs: int) -> dict[str, Any]:
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            other.host.load_weights(0).close()

    loaded = subject.host.load_weights(0)
    thread = threading.Thread(target=load)
    thread.start()
    try:
        return subject.infer(loaded, 1, runs)
    finally:
        stop.set()
        thread.join()
        loaded.close()


def measure(subject: Subject, other: Subject, runs: int) -> dict[str, Any]:
    results: dict[str, Any] = dict(measure_loads(subject, other, min(LOADS, runs)))
    loaded = subject.host.load_weights(0)
    results["note"] = subject.host.info.note
    results["infer"] = {}
    for rows in BATCHES:
        found = subject.infer(loaded, rows, runs if rows == 1 else max(3, runs // 10))
        results["infer"][rows] = found | {"eager": subject.eager(loaded, rows, max(3, runs // 100))}
    loaded.close()
    results["infer_while_loading"] = while_loading(subject, other, runs)
    return results


def make_runtime(smoke: bool, cache_bytes: int | None) -> CudaRuntime:
    if not smoke:
        return CudaRuntime(1, PAGE, cache_bytes)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from runtimes.torch.fake_driver import FakeDriver, FakeExecutor

    driver = FakeDriver(limit=200)
    driver.attach()
    executor = FakeExecutor(driver)
    return CudaRuntime(
        1, PAGE, cache_bytes or 8 * PAGE, io_bytes=20 * MIB, workspace_bytes=GIB,
        make_driver=lambda index: driver, make_executor=lambda index, size: executor,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=10_000, help="inferences of one row; a tenth of larger batches")
    parser.add_argument("--seconds", type=float, default=60.0, help="of serving")
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.smoke:
        given.runs, given.seconds, given.models = 5, 1.0, 20
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        try:
            runtime = make_runtime(given.smoke, None)
        except InvalidRequestError as error:
            print(f"skipped: {error}")
            return
        results["device"] = "none: host memory, to try this program; no number here is of a device"
        if not given.smoke:
            results["device"] = f"{runtime.device_kind}, {runtime.version}"
        subjects: dict[str, Subject] = {}
        for name, (module, shape) in networks(given.smoke).items():
            for half in (False, True):
                path = root / f"{name}_fp{16 if half else 32}.pt2"
                export(module, [Example((1, *shape), torch.float32)], True, half).save(path)
                subjects[path.stem] = Subject(runtime, path, shape, np.float16 if half else np.float32)
        names = list(subjects)
        for at, name in enumerate(names):
            results[name] = measure(subjects[name], subjects[names[at - 1]], given.runs)
        results["served"] = cuda_served.measure(
            runtime, root, f"{names[0]}.pt2", given.models, given.seconds, subjects[names[0]].weights
        )
    print(json.dumps(results, indent=1))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
