"""The parts of the demo that can be tested without running all of it."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cli.processes import serve
from clockwork.environment.checks import check
from clockwork.environment.measurement import examine
from clockwork.errors import ClockworkError, RequestRefusedError, RequestTimeoutError, ServerError
from clockwork.runtimes.ort import onnxruntime

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses need the module there
    spec.loader.exec_module(module)
    return module


demo = example("demo")


def test_the_expected_labels_are_those_of_the_network() -> None:
    session = onnxruntime.InferenceSession(demo.ROOT / demo.magika("model.onnx"))
    labels = json.loads((demo.ROOT / demo.magika("config.min.json")).read_text())["target_labels_space"]
    here = {name: label for name, label in demo.EXPECTED.items() if not name.startswith("build/")}
    assert len(here) >= 10
    scores = {name: session.run(["target_label"], {"bytes": demo.features(demo.ROOT / name)})[0][0] for name in here}
    assert {name: labels[score.argmax()] for name, score in scores.items()} == here
    assert min(score.max() for score in scores.values()) > 0.9


def test_the_demo_prints_the_address_of_the_dashboard() -> None:
    server = demo.Server(None, None, None, {"HTTP": "127.0.0.1:8000"})
    assert "http://127.0.0.1:8000/" in demo.dashboard(server)


@pytest.mark.parametrize("size", [0, 1, 900, 1024, 1500, 5000])
def test_features_are_both_ends_of_the_file_without_outer_white_space(tmp_path: Path, size: int) -> None:
    content = (bytes(range(65, 91)) * 200)[:size]
    (tmp_path / "file").write_bytes(b" \n\t" + content + b"\r\n ")
    (row,) = demo.features(tmp_path / "file")
    beginning, end = (content + b"\r\n ").lstrip()[:1024], (b" \n\t" + content).rstrip()[-1024:]
    assert row.dtype == np.int32
    assert row.tolist() == [*beginning, *[256] * (2048 - len(beginning) - len(end)), *end]


def test_arrivals_are_sorted_repeatable_and_have_the_requested_rates() -> None:
    wanted = {"a": 100.0, "b": 3.0}
    schedule = demo.arrivals(wanted)
    assert schedule == sorted(schedule) == demo.arrivals(wanted)
    counts = Counter(model for _, model in schedule)
    for model, rate in wanted.items():
        expected = rate * demo.SECONDS
        assert abs(counts[model] - expected) < 4 * expected**0.5


def report(disturbed: float = 0.0, right: int = len(demo.EXPECTED), counted: int = 1000, **outcomes: int) -> Any:
    counts = Counter({name.replace("_", " "): count for name, count in outcomes.items()})
    return demo.Report(right, counts, sum(counts.values()), counted, disturbed)


@pytest.mark.parametrize(
    "good",
    [
        {"in_time": 1000},
        {"in_time": 990, "late": 10},
        {"in_time": 100, "refused": 900},
        {"in_time": 600, "late": 400, "disturbed": 0.5},
    ],
)
def test_refused_requests_and_late_ones_that_the_disturbance_explains_are_no_fault(good: dict[str, Any]) -> None:
    assert report(**good).faults() == []


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({"in_time": 1000, "right": 11}, "1 of 12 files have a wrong label"),
        ({"in_time": 999, "failed": 1}, "1 requests failed"),
        ({"in_time": 1000, "counted": 999}, "1000 requests were sent and the server answered 999"),
        ({"in_time": 1000, "counted": 1001}, "1000 requests were sent and the server answered 1001"),
        ({"refused": 1000}, "no request was answered in time"),
        (
            {"in_time": 800, "late": 200, "disturbed": 0.1},
            "20.0% of the requests were late; allowed are 1%, and 10% for the measured disturbance",
        ),
    ],
)
def test_each_fault_of_the_software_is_named(bad: dict[str, Any], fault: str) -> None:
    assert report(**bad).faults() == [fault]


def test_a_withdrawn_promise_is_late_and_a_refusal_on_arrival_is_not() -> None:
    def outcome(error: ClockworkError) -> str:
        found: str = demo.outcome_of(error)
        return found

    assert outcome(RequestRefusedError("predicted completion is 3 ms past the deadline")) == "refused"
    assert outcome(RequestRefusedError("admitted, but will miss its deadline: x")) == "late"
    assert outcome(RequestTimeoutError("the deadline passed")) == "late"
    assert outcome(ServerError("x")) == "failed"


def test_a_busy_loop_on_the_core_of_the_device_is_named_as_the_cause() -> None:
    core = max(os.sched_getaffinity(0))
    loop = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    others = demo.OtherLoad(os.getpid())  # before the loop, which would count as the demo's own process
    busy = subprocess.Popen([sys.executable, "-c", loop])
    try:
        environment = examine(1, 1, 2.0)
        taken = others.share()
    finally:
        busy.kill()
        busy.wait()
    assert {"interruptions", "other processes"} & {finding.name for finding in demo.causes(environment)}
    assert all(finding.cost and finding.fix for finding in demo.causes(environment))
    assert demo.disturbed_share(environment) > 0.2
    assert 0.0 < taken <= 1.0


def test_every_cause_is_the_name_of_a_check() -> None:
    assert set(demo.CAUSES) <= {finding.name for finding in check(examine(1, 1, 0.1))}


def test_the_labels_are_the_same_over_all_three_protocols() -> None:
    async def labels(native: str, http: str, grpc: str) -> dict[str, dict[str, str]]:
        async with demo.asking(native, http, grpc) as ways:
            here = [name for name in demo.EXPECTED if not name.startswith("build/")]
            found = {name: await demo.label(demo.ROOT / name, ways) for name in here}
            return {way: {name: labels_by_way[way][0] for name, labels_by_way in found.items()} for way in ways}

    model = (demo.ROOT / demo.magika("model.onnx")).resolve()
    with serve(f"magika={model}", "--http=127.0.0.1:0", "--grpc=127.0.0.1:0") as process:
        native = process.address()
        others = [process.out.wait_for(rf"serves {name} on (\S+)$")[1] for name in ("HTTP", "gRPC")]
        found = asyncio.run(labels(native, *others))
    right = {name: label for name, label in demo.EXPECTED.items() if not name.startswith("build/")}
    assert found == {"native": right, "HTTP": right, "gRPC": right}
