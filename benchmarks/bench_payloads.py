"""Measure the time saved by memory for large requests that the controller shares with its worker.

    python benchmarks/bench_payloads.py --json payloads.json

Two servers run on one core and take turns. One of them has the option --payload-memory=none. Both servers get HTTP
requests of 602,112 bytes from another core. A request contains an image, and the model computes the image's mean
colour. ``cpu_us`` is the processor time of all processes of a server for one request. ``saved_us`` is the median
difference over all rounds, with its quartiles.
"""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_overload import GENERATOR, PATIENCE, SERVER, moments
from load_http import HttpWire
from load_ledger import SUCCESS, Ledger, Template
from load_loop import open_loop
from serving import Bare, Served, machine, median, options, serving, tell

from clockwork.units import seconds

RATE = 300.0  # requests/s


def cpu_us(served: Served) -> float:
    """Return the processor time of all threads of a server's processes, from the kernel's scheduler."""
    total = 0.0
    for pid in served.pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e3
    return total


def mean_colour(path: Path) -> Path:
    """Build a model that computes the mean colour of an image."""
    image = onnx.helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, ["N", 3, 224, 224])
    colour = onnx.helper.make_tensor_value_info("colour", onnx.TensorProto.FLOAT, ["N", 3, 1, 1])
    node = onnx.helper.make_node("GlobalAveragePool", ["data"], ["colour"])
    graph = onnx.helper.make_graph([node], "mean", [image], [colour])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def measure(servers: Mapping[str, Served], template: Template, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the servers in turns, and return the results."""
    spent: dict[str, list[float]] = {name: [] for name in servers}
    latencies: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(rounds + 1):  # the first round is not counted
        for name, served in servers.items():
            due = np.array(moments(RATE, 0, duration, turn), np.int64)
            ledger = Ledger(len(due), [template], b"\0", slo=seconds(1), allowance=0)
            before = cpu_us(served)
            wire = HttpWire(served.http, ledger)
            try:
                open_loop(wire, due, PATIENCE)
            finally:
                wire.close()
            done = ledger.arrays(0, len(due)).ms(SUCCESS)
            if turn:
                spent[name].append((cpu_us(served) - before) / len(done))
                latencies[name] += done
    saved = [sent - shared for sent, shared in zip(spent["sent"], spent["shared"], strict=True)]
    quartiles = statistics.quantiles(saved, n=4)
    return {
        "requests": len(latencies["shared"]),
        "sent_cpu_us": round(statistics.median(spent["sent"])),
        "shared_cpu_us": round(statistics.median(spent["shared"])),
        "saved_us": round(statistics.median(saved)),
        "saved_us_quartiles": [round(quartiles[0]), round(quartiles[2])],
        "sent_ms_p50": median(latencies["sent"]),
        "shared_ms_p50": median(latencies["shared"]),
    }


def main() -> None:
    """Measure and print the results."""
    given = options(__doc__, seconds=1.0, rounds=10).parse_args()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    with tempfile.TemporaryDirectory() as directory:
        model = mean_colour(Path(directory) / "colour.onnx")
        template = Template("colour", "data", image, Bare(model, {"data": image}).once())
        arguments = ["--http=127.0.0.1:0", "--profile-seconds=0.5", "--max-batch=1", model]
        with (
            serving("--payload-memory=none", *arguments, on={SERVER}, here={GENERATOR}) as sent,
            serving(*arguments, on={SERVER}, here={GENERATOR}) as shared,
        ):
            results = measure({"sent": sent, "shared": shared}, template, given.seconds, given.rounds)
    tell(machine() | results, given.json)


if __name__ == "__main__":
    main()
