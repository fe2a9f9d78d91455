"""Measure LoadWeights on a CPU device, and its effect on inferences on another core.

    python benchmarks/bench_weights.py --json results.json

There are three parts:

(a) For each network: the time to create a plain session from the file, the times to load and to evict the weights, with
    and without packed weights, and the time of batches, all in ms. The size of the heap is in MB.
(b) The latency of squeezenet on the last core, in turns alone and while a thread on the first core loads and evicts
    other networks.
(c) Four matrix products with 2048 x 2048 weights of 32, 8 and 4 bits. The result is the ratio of the times without and
    with packed weights, for 1 and 4 rows.

An inference is not counted if the kernel gave its core to another process in between. Only numbers of the same run can
be compared, because other programs disturb the machine.
"""

import argparse
import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from clockwork.host.process_tuning import SWITCH_INTERVAL
from clockwork.malloc import used_bytes
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.model import LoadedOnnxModel, OnnxModel
from clockwork.runtimes.onnx.sessions import options as session_options
from clockwork.runtimes.ort import onnxruntime
from clockwork.zoo import build

NETWORKS = ("squeezenet", "densenet121", "resnet50", "alexnet", "vgg19")
BATCHES = (1, 4, 8)
LOADS = 7
DISTURBERS = ("resnet50", "densenet121", "vgg19")
CORES = sorted(os.sched_getaffinity(0))


def ms(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1e3


def plain(file: Path) -> float:
    """Return the time to create a plain session from the file, in ms."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return statistics.median(
        ms(lambda: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]))
        for _ in range(3)
    )


def loading(host: OnnxModel) -> dict[str, float]:
    """Measure the loading of one network, whose weights may be packed or not."""
    loads, evictions, heap = [], [], []
    for _ in range(LOADS):
        before, begin = used_bytes(), time.perf_counter()
        loaded = host.load_weights(0)
        loads.append((time.perf_counter() - begin) * 1e3)
        heap.append((used_bytes() - before) / 1e6)
        evictions.append(ms(loaded.close))
    return {
        "load_ms": round(statistics.median(loads), 2),
        "evict_ms": round(statistics.median(evictions), 2),
        "heap_mb": round(statistics.median(heap), 2),
    }


def executing(packed: LoadedOnnxModel, unpacked: LoadedOnnxModel, batch: int) -> tuple[float, float]:
    """Return the shortest execution time of each, measured in turns."""
    feed = {"data": np.random.default_rng(0).random((batch, 3, 224, 224), dtype=np.float32)}
    first = max(ms(lambda: packed.execute(feed)), ms(lambda: unpacked.execute(feed)))
    rounds = max(3, min(30, int(2000 / first)))
    times = [(ms(lambda: packed.execute(feed)), ms(lambda: unpacked.execute(feed))) for _ in range(rounds)]
    return min(it[0] for it in times), min(it[1] for it in times)


def bench_loading(name: str, file: Path, host: OnnxModel) -> dict[str, object]:
    """Measure part (a) for one network."""
    packed, unpacked = host.with_packing(True), host.with_packing(False)
    row: dict[str, object] = {
        "chosen": "packed" if host.packed else "unpacked",
        "weights_mb": round(host.info.weights_bytes / 1e6, 1),
        "plain_session_ms": round(plain(file), 1),
        "packed": loading(packed),
        "unpacked": loading(unpacked),
    }
    loaded = packed.load_weights(0), unpacked.load_weights(0)
    for batch in BATCHES:
        with_packed, without = executing(*loaded, batch)
        row[f"batch_{batch}_ms"] = (round(with_packed, 2), round(without, 2), round(without / with_packed, 3))
    print(name, json.dumps(row), flush=True)
    return row


class Disturber(threading.Thread):
    """A thread that loads and evicts networks while it is enabled."""

    def __init__(self, hosts: list[OnnxModel]) -> None:
        super().__init__(daemon=True)
        self.hosts = hosts
        self.go = threading.Event()
        self.loads = 0

    def run(self) -> None:
        os.sched_setaffinity(0, {CORES[0]})
        while True:
            for host in self.hosts:
                self.go.wait()
                host.load_weights(0).close()
                self.loads += 1


def inferences(loaded: LoadedOnnxModel, seconds: float) -> list[float]:
    """Execute inferences one after the other, and return their latencies in ms."""
    feed = {"data": np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)}
    latencies = []
    end = time.perf_counter() + seconds
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    while (begin := time.perf_counter()) < end:
        loaded.execute(feed)
        latency = (time.perf_counter() - begin) * 1e3
        now = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        if now == switches:
            latencies.append(latency)
        switches = now
    return latencies


def bench_pair(squeezenet: OnnxModel, hosts: list[OnnxModel], seconds: float, rounds: int) -> dict[str, float]:
    """Measure part (b). The result is the median of the rounds' ratios, so that one disturbed round does not matter."""
    disturber = Disturber(hosts)
    disturber.start()
    os.sched_setaffinity(0, {CORES[-1]})
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    loaded = squeezenet.load_weights(0)
    inferences(loaded, 1)
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(float(np.percentile(inferences(loaded, seconds), 99)))
        disturber.go.set()
        beside.append(float(np.percentile(inferences(loaded, seconds), 99)))
        disturber.go.clear()
        time.sleep(0.3)
    result = {
        "alone_ms_p99": round(statistics.median(alone), 3),
        "beside_ms_p99": round(statistics.median(beside), 3),
        "ratio": round(statistics.median(b / a for a, b in zip(alone, beside, strict=True)), 3),
        "ratio_of_best": round(min(beside) / min(alone), 3),
        "loads": disturber.loads,
    }
    print("pair", json.dumps(result), flush=True)
    return result


WIDTH = 2048
LAYERS = 4
BITS = (32, 8, 4)


def product(bits: int, layer: int, taken: str, made: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Return the nodes of one layer, and its weights."""
    chance = np.random.default_rng(layer)
    at = f"{layer}"
    if bits == 32:
        weights = chance.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5
        return [helper.make_node("MatMul", [taken, "w" + at], [made])], {"w" + at: weights}
    if bits == 4:
        kind: dict[str, Any] = {
            "domain": "com.microsoft",
            "K": WIDTH,
            "N": WIDTH,
            "bits": 4,
            "block_size": 32,
            "accuracy_level": 4,
        }
        blocks = WIDTH // 32
        return [helper.make_node("MatMulNBits", [taken, "w" + at, "s" + at], [made], **kind)], {
            "w" + at: chance.integers(0, 255, (WIDTH, blocks, 16)).astype(np.uint8),
            "s" + at: np.full(WIDTH * blocks, 1e-3, np.float32),
        }
    names = {it: it + at for it in ("q", "s", "z", "a", "c")}
    return [
        helper.make_node("DynamicQuantizeLinear", [taken], [names["q"], names["s"], names["z"]]),
        helper.make_node("MatMulInteger", [names["q"], "w" + at, names["z"]], [names["a"]]),
        helper.make_node("Cast", [names["a"]], [names["c"]], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [names["c"], names["s"]], [made]),
    ], {"w" + at: chance.integers(-100, 100, (WIDTH, WIDTH)).astype(np.int8)}


def products(bits: int) -> bytes:
    """Return a model of four layers with the input ``x`` and the output ``y``."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    for layer in range(LAYERS):
        made = "y" if layer == LAYERS - 1 else f"h{layer}"
        its_nodes, its_weights = product(bits, layer, "x" if layer == 0 else f"h{layer - 1}", made)
        nodes += its_nodes
        weights |= its_weights
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", WIDTH]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def bench_products() -> dict[str, dict[str, float]]:
    """Measure part (c): matrix products with packed weights."""
    results = {}
    for bits in BITS:
        model = products(bits)
        sessions = [
            onnxruntime.InferenceSession(model, session_options(1, packed), providers=["CPUExecutionProvider"])
            for packed in (True, False)
        ]
        row = {}
        for batch in (1, 4):
            feed = {"x": np.ones((batch, WIDTH), np.float32)}
            times = [[ms(partial(session.run, None, feed)) for session in sessions] for _ in range(20)]
            fast, slow = (min(its) for its in zip(*times, strict=True))
            row[f"rows_{batch}"] = round(slow / fast, 2)
        results[f"{bits} bits"] = row
    print("products", json.dumps(results), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", type=Path, help="keep the networks here; default: a temporary directory")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each half of a pair")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--packed", action="store_true", help="pack the weights of what disturbs")
    parser.add_argument("--only", choices=("loading", "pair", "products"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.sched_setaffinity(0, {CORES[-1]})
        runtime = OnnxRuntime()
        directory = given.models or Path(temporary)
        files = {name: build(name, directory) for name in NETWORKS}
        hosts = {name: runtime.load_model(file) for name, file in files.items() if given.only != "products"}
        results: dict[str, object] = {}
        if given.only in (None, "products"):
            results["products"] = bench_products()
        if given.only in (None, "loading"):
            results |= {name: bench_loading(name, files[name], hosts[name]) for name in NETWORKS}
        if given.only in (None, "pair"):
            disturbers = [hosts[name].with_packing(given.packed or hosts[name].packed) for name in DISTURBERS]
            results["pair"] = bench_pair(hosts["squeezenet"], disturbers, given.seconds, given.rounds)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
