"""Checks that a document follows Chrome's trace event format.

The rules are those that Perfetto's importer needs: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from typing import Any

FIELDS: dict[str, Any] = {"name": str, "ph": str, "ts": (int, float), "pid": int, "tid": int}


def check_trace(document: dict[str, Any]) -> None:
    """Check every event, and the relations between events."""
    events = document["traceEvents"]
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in events:
        for name, kind in FIELDS.items():
            assert isinstance(event[name], kind), event
        assert event["ts"] >= 0
        assert event["ph"] in ("X", "M", "C", "s", "t", "f", "i")
    assert [event["ts"] for event in events] == sorted(event["ts"] for event in events)
    check_names(events)
    check_slices(events)
    check_flows(events)
    for event in events:
        if event["ph"] == "C":
            assert all(isinstance(value, int) and value >= 0 for value in event["args"].values())
        if event["ph"] == "i":
            assert event["s"] == "t"


def check_names(events: list[dict[str, Any]]) -> None:
    """Check that each process and each thread of a slice has one name, and that threads have unique numbers."""
    processes = {event["pid"] for event in events if event["name"] == "process_name"}
    threads = [(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"]
    assert len({thread for _, thread in threads}) == len(threads)
    for event in events:
        assert event["pid"] in processes
        if event["ph"] in "Xistf":
            assert (event["pid"], event["tid"]) in threads


def check_slices(events: list[dict[str, Any]]) -> None:
    """Check that the slices of a thread do not overlap."""
    ends: dict[int, float] = {}
    for event in slices(events):
        assert event["dur"] >= 0
        assert event["ts"] >= ends.get(event["tid"], 0) - 1e-6, event
        ends[event["tid"]] = event["ts"] + event["dur"]


def check_flows(events: list[dict[str, Any]]) -> None:
    """Check that each flow begins and ends once, and that each of its steps lies at the begin of a slice."""
    begins = {(event["tid"], event["ts"]) for event in slices(events)}
    flows: dict[tuple[str, str, str], list[str]] = {}  #: the phases of each flow, in order of time
    for event in events:
        if event["ph"] in "stf":
            assert (event["tid"], event["ts"]) in begins, event
            flows.setdefault((event["cat"], event["name"], event["id"]), []).append(event["ph"])
    for steps in flows.values():
        assert steps == ["s", *["t"] * (len(steps) - 2), "f"]


def slices(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events that have a duration."""
    return [event for event in events if event["ph"] == "X"]


def lanes(events: list[dict[str, Any]]) -> dict[int, tuple[str, str]]:
    """Return the device and the lane of each thread, by the thread's number."""
    devices = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    return {
        event["tid"]: (devices[event["pid"]], event["args"]["name"].split()[0])
        for event in events
        if event["name"] == "thread_name"
    }
