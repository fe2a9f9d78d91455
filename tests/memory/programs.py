"""Programs whose resident memory test_memory measures in separate processes: ``programs.py NAME DIR``.

Each program prints its result as JSON.
"""

import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from clockwork.clock import MonotonicClock
from clockwork.host.lanes import Lanes
from clockwork.host.task_runner import TaskRunner
from clockwork.messages.actions import Action, EvictWeights, Infer, InferInput, LoadModelFromDisk, LoadWeights
from clockwork.messages.results import ErrorResult
from clockwork.messages.tensors import TensorSpec
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.model import OnnxModel
from clockwork.units import MIB
from clockwork.worker.core import WorkerCore
from onnx_graphs import dense, model, node, saved, value

WIDTH = 2048
ROW = np.ones((1, WIDTH), np.float32)


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def packing(directory: Path) -> OnnxModel:
    """Return a model with 64 MiB of weights. Every session packs these weights."""
    network = dense(width=WIDTH, classes=3 * WIDTH)
    return OnnxRuntime().load_model(saved(network, directory / "packed.onnx")).with_packing(True)


def copying(directory: Path) -> OnnxModel:
    """Return a model with 64 MiB of weights that sessions copy.

    Sessions copy the weights because integer outputs do not prove that the weights can be shared.
    """
    table = np.arange(8 * MIB, dtype=np.int64).reshape(-1, 64)
    network = model(
        [node("Gather", "t x", "y")],
        [value("x", ["N"], TensorProto.INT64)],
        [value("y", ["N", 64], TensorProto.INT64)],
        t=table,
    )
    host = OnnxRuntime().load_model(saved(network, directory / "copied.onnx"))
    assert not host.in_place
    return host


def rounds(host: OnnxModel, feed: dict[str, Any]) -> list[list[int]]:
    """Return the resident memory before LoadWeights, after an inference and after EvictWeights, for each round.

    The first round is a warm-up and is left out.
    """
    found = []
    for _ in range(6):
        before = resident()
        loaded = host.load_weights(0)
        loaded.execute(feed)
        held = resident()
        loaded.close()
        found.append([before, held, resident()])
    return found[1:]


class Worker:
    """A worker without a network. It has one device, whose weights cache has ``pages`` pages of 1 MiB."""

    def __init__(self, root: Path, pages: int) -> None:
        runtime = OnnxRuntime()
        clock = MonotonicClock()
        self._came = threading.Event()
        self._results: list[Any] = []
        core = WorkerCore(MIB, [(runtime.device_kind, pages)])
        self.lanes = Lanes(core, TaskRunner(runtime, root, clock), clock, self._came.set, lambda error: None)
        self.lanes.start()
        self._ids = 0

    def do(self, kind: type[Action], *arguments: Any, payloads: tuple[object, ...] = ()) -> None:
        """Execute one action and wait for its end."""
        self._ids += 1
        self._came.clear()
        self.lanes.act(kind(self._ids, *arguments), payloads)
        assert self._came.wait(60)
        for sent in self.lanes.take_results():
            assert not isinstance(sent.result, ErrorResult), sent.result


def oversubscribed(root: Path) -> dict[str, Any]:
    """Use twenty models of 16 MiB in turn for three seconds.

    The weights cache of the device has room for two models.
    """
    worker = Worker(root, 80)
    width = 1024
    row = np.ones((1, width), np.float32).tobytes()
    names = [f"m{i}" for i in range(20)]
    for i, name in enumerate(names):
        saved(dense(i, width, 3 * width), root / f"{name}.onnx")
        worker.do(LoadModelFromDisk, f"{name}.onnx", name)
    levels: list[int] = []
    loads = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        name = names[loads % len(names)]
        worker.do(LoadWeights, 0, name)
        wanted = InferInput(1, 1, (TensorSpec("x", "FP32", (1, width), len(row)),))
        worker.do(Infer, 0, name, (wanted,), payloads=(row,))
        levels.append(resident())
        if loads:
            worker.do(EvictWeights, 0, names[(loads - 1) % len(names)])
        loads += 1
    worker.lanes.stop()
    return {"loads": loads, "levels": levels}


def copies(root: Path) -> dict[str, int]:
    """Return the resident memory with one model, and the memory with a thousand more models from the same file."""
    worker = Worker(root, 400)
    saved(dense(width=WIDTH, classes=3 * WIDTH), root / "m.onnx")
    worker.do(LoadModelFromDisk, "m.onnx", "one")
    before = resident()
    worker.do(LoadModelFromDisk, "m.onnx", "m", 1000)
    after = resident()
    worker.lanes.stop()
    return {"before": before, "after": after}


if __name__ == "__main__":
    program, directory = sys.argv[1], Path(sys.argv[2])
    results: Any
    match program:
        case "packed":
            results = rounds(packing(directory), {"x": ROW})
        case "copied":
            results = rounds(copying(directory), {"x": np.array([1, 2])})
        case "oversubscribed":
            results = oversubscribed(directory)
        case _:
            results = copies(directory)
    print(json.dumps(results))
