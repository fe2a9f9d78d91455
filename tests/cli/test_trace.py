"""``clockwork trace`` writes valid traces whose sums equal the records of the simulation."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cli.trace_format import check_trace, lanes, slices
from clockwork.cli import run
from clockwork.cli.trace_events import TraceBuilder
from clockwork.cli.tracing import Traced, write_trace
from clockwork.errors import InvalidRequestError
from clockwork.messages.timeline import TimelineAction

SCENARIO = """
duration_s = 2
warmup_s = 0
slo_ms = 60
[devices]
workers = 1
per_worker = 2
pages = 30
[[models]]
name = "resnet50"
copies = 8
profile = "resnet50-v100"
[[workload]]
kind = "poisson"
rate = 900
[noise]
kind = "normal"
share = 0.1
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trace")
    (directory / "scenario.toml").write_text(SCENARIO)
    path = directory / "records.jsonl"
    assert run(["sim", str(directory / "scenario.toml"), "--records", str(path)]) == 0
    return path


def traced(records: Path, output: Path, *options: str) -> dict[str, Any]:
    assert run(["trace", "--records", str(records), "-o", str(output), *options]) == 0
    document: dict[str, Any] = json.loads(output.read_text())
    return document


def read(records: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, records.read_text().splitlines()) if record["record"] == kind]


def test_the_trace_of_a_simulation_is_valid_and_its_sums_equal_the_records(records: Path, tmp_path: Path) -> None:
    document = traced(records, tmp_path / "trace.json", "--seconds", "30s")
    check_trace(document)
    events = document["traceEvents"]
    begin = read(records, "request")[0]["arrival"]
    executed = [each for each in read(records, "action") if each.get("begin", 0) >= begin]
    assert len(executed) > 100
    expected: Counter[tuple[str, str]] = Counter()
    for each in executed:
        lane = "exec" if each["type"] == "Infer" else "load"
        expected[f"{each['worker']}/gpu{each['gpu']}", lane] += each["end"] - each["begin"]
    found: Counter[tuple[str, str]] = Counter()
    place = lanes(events)
    for event in slices(events):
        device, lane = place[event["tid"]]
        if lane != "plan":
            found[device, lane] += round(event["dur"] * 1000)
    assert found == expected
    batches = [event for event in slices(events) if event["cat"] == "infer"]
    assert sum(event["args"]["requests"] for event in batches) == sum(
        len(each["requests"]) for each in executed if each["type"] == "Infer"
    )
    assert document["otherData"]["dropped_actions"] == 0
    assert {device for device, _ in place.values()} == {"w0/gpu0", "w0/gpu1"}


def test_every_batch_has_its_plan_and_its_window(records: Path, tmp_path: Path) -> None:
    events = traced(records, tmp_path / "trace.json")["traceEvents"]
    actions = {each["id"]: each for each in read(records, "action")}
    planned = {event["args"]["action"]: event for event in slices(events) if event["cat"] == "plan"}
    batches = [event for event in slices(events) if event["cat"] == "infer"]
    assert batches
    for batch in batches:
        record, about = actions[batch["args"]["action"]], batch["args"]
        plan = planned[about["action"]]
        assert plan["dur"] == pytest.approx(record["expected"] / 1000)
        assert batch["ts"] - plan["ts"] == pytest.approx(about["began_after_plan_us"], abs=0.002)
        assert about["began_after_plan_us"] == (record["begin"] - record["predicted_start"]) / 1000
        assert about["began_after_earliest_us"] >= 0
        assert about["began_before_latest_us"] >= 0
    flows = {event["id"] for event in events if event["ph"] == "f"}
    assert {f"action {batch['args']['action']}" for batch in batches} <= flows


def test_counters_show_the_requests_and_the_actions(records: Path, tmp_path: Path) -> None:
    events = traced(records, tmp_path / "trace.json", "--seconds", "30s")["traceEvents"]
    pending = [event["args"]["pending requests"] for event in events if event["name"] == "pending requests"]
    assert max(pending) > 1
    assert pending[-1] == 0
    outstanding = [event["args"]["actions"] for event in events if event["name"] == "outstanding"]
    assert max(outstanding) >= 1


def test_a_window_contains_only_its_actions(records: Path, tmp_path: Path) -> None:
    whole = traced(records, tmp_path / "whole.json", "--seconds", "30s")
    part = traced(records, tmp_path / "part.json", "--start", "500ms", "--seconds", "250ms")
    check_trace(part)
    window = [event for event in slices(part["traceEvents"]) if event["cat"] == "infer"]
    assert 0 < len(window) < len(slices(whole["traceEvents"])) / 4
    assert all(event["ts"] <= 250_000 for event in window)


def test_a_trace_is_limited_and_says_what_was_left_out(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = traced(records, tmp_path / "trace.json", "--max-events", "500")
    check_trace(document)
    assert len([event for event in document["traceEvents"] if event["ph"] != "M"]) <= 500
    dropped = document["otherData"]["dropped_actions"]
    assert dropped > 0
    assert f"{dropped:,} actions were left out; raise --max-events or shorten --seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--run", "7"], "has no actions of run 7"),
        (["--start", "100s"], "has no actions of run 1 in this time"),
        (["--past"], "--past needs a server"),
        (["--seconds", "2min"], "--seconds is 120 s; the limit is 60 s"),
    ],
    ids=str,
)
def test_a_wrong_option_is_explained(
    records: Path, options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", "--records", str(records), "-o", str(tmp_path / "trace.json"), *options]) == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"record": "action", "run": 1}', "\xff"], ids=repr)
def test_a_file_without_records_is_an_error_with_the_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"record": "run", "run": 1}\n' + content.encode("latin-1") + b"\n")
    assert run(["trace", "--records", str(path), "-o", str(tmp_path / "trace.json")]) == 1
    assert "bad.jsonl, line 2, is not a record of clockwork sim" in capsys.readouterr().err


def test_overlapping_slices_are_in_different_threads_and_failures_are_shown() -> None:
    builder = TraceBuilder(0, 1000)
    builder.add_device("w0/gpu1")
    for number, (begin, end) in enumerate([(10, 50), (20, 30), (30, 40), (60, 70)], 1):
        builder.add(TimelineAction(number, number, "w0/gpu0", "infer", "m", begin=begin, end=end, status="SUCCESS"))
    builder.add(TimelineAction(5, 5, "w0/gpu0", "load", "m", arrived=80, status="CANCELLED", error="why"))
    document = json.loads(b"".join(builder.document({})))
    check_trace(document)
    threads = [event["tid"] for event in slices(document["traceEvents"])]
    assert threads[1] == threads[2] != threads[0] == threads[3]
    (failure,) = (event for event in document["traceEvents"] if event["ph"] == "i")
    assert (failure["name"], failure["args"]["error"]) == ("m: CANCELLED", "why")


def test_a_load_leads_to_the_next_batch_of_its_model() -> None:
    builder = TraceBuilder(0, 1000)
    load = TimelineAction(1, 1, "d", "load", "m", begin=10, end=20, status="SUCCESS")
    other = TimelineAction(2, 2, "d", "infer", "n", begin=20, end=30, status="SUCCESS")
    first = TimelineAction(3, 3, "d", "infer", "m", begin=30, end=40, status="SUCCESS", input=(28, 29), output=(40, 42))
    second = TimelineAction(4, 4, "d", "infer", "m", begin=40, end=50, status="SUCCESS")
    for action in (load, other, first, second):
        builder.add(action)
    document = json.loads(b"".join(builder.document({})))
    check_trace(document)
    flows = [(event["ph"], event["id"], event["ts"]) for event in document["traceEvents"] if event["ph"] in "stf"]
    assert [flow for flow in flows if flow[1] == "load 1"] == [("s", "load 1", 0.01), ("f", "load 1", 0.03)]
    assert [ph for ph, name, _ in flows if name == "action 3"] == ["s", "t", "f"]


def test_a_trace_that_does_not_fit_on_the_disk_is_an_error() -> None:
    with pytest.raises(InvalidRequestError, match="cannot write /dev/full: No space left on device"):
        write_trace(Path("/dev/full"), Traced(TraceBuilder(0, 10), 0, "a test"))
