"""A real server is traced while it serves."""

import json
import signal
import threading
from pathlib import Path

import pytest

from cli.processes import clockwork
from cli.trace_format import check_trace, slices
from clockwork.cli import run
from oip.conformance import A, B, Server, infer


def send_until(ended: threading.Event, server: Server, name: str) -> None:
    """Send requests one after the other. Their ids begin with ``name``."""
    number = 0
    while not ended.is_set():
        number += 1
        infer(server, "two", A, B, id=f"{name}-{number}", parameters={"timeout": 9_000_000})


def test_a_live_trace_contains_the_requests_that_were_sent_meanwhile(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    sender = threading.Thread(target=send_until, args=(ended, server, "traced"))
    sender.start()
    try:
        assert run(["trace", "--seconds", "1s", "-o", str(tmp_path / "t.json"), "-a", server.native]) == 0
    finally:
        ended.set()
        sender.join()
    assert "open it at https://ui.perfetto.dev" in capsys.readouterr().out
    document = json.loads((tmp_path / "t.json").read_text())
    check_trace(document)
    batches = [event for event in slices(document["traceEvents"]) if event["cat"] == "infer"]
    numbers = [int(name.partition("-")[2]) for event in batches for name in event["args"]["ids"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no request is missing"
    assert document["otherData"]["missed_actions"] == 0


def test_the_past_is_written_at_once(server: Server, tmp_path: Path) -> None:
    infer(server, "two", A, B, id="in-the-past", parameters={"timeout": 9_000_000})
    assert run(["trace", "--past", "--seconds", "60s", "-o", str(tmp_path / "t.json"), "-a", server.native]) == 0
    document = json.loads((tmp_path / "t.json").read_text())
    check_trace(document)
    assert any(
        "in-the-past" in event["args"]["ids"] for event in slices(document["traceEvents"]) if event["cat"] == "infer"
    )


def test_ctrl_c_writes_the_trace_so_far(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "t.json"
    with clockwork("trace", "--seconds", "60s", "-o", str(output), "-a", server.native) as process:
        process.err.wait_for("recording for 60 s")
        process.send(signal.SIGINT)
        assert process.ended() == 0
    check_trace(json.loads(output.read_text()))


def test_without_a_server_no_trace_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "-o", str(tmp_path / "t.json"), "-a", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
