"""The log as JSON: every line of stderr of every process is a JSON document."""

import json
import logging
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cli.processes import Process, clockwork, save_dense, serve
from clockwork.cli import run
from clockwork.cli.logs import JsonFormatter, TextFormatter
from clockwork.client import Client
from clockwork.host.log_events import event_fields


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    """Parse each line, and check the fields that every line has."""
    records = [json.loads(line) for line in lines]
    for line in records:
        assert {"ts", "level", "logger", "event", "message"} <= set(line)
        assert datetime.fromisoformat(line["ts"]).utcoffset() is not None
        assert len(line["ts"]) == len("2026-01-01T00:00:00.000000Z")
    return records


def of(lines: list[dict[str, Any]], event: str) -> dict[str, Any]:
    """Return the first line with that event."""
    return next(line for line in lines if line["event"] == event)


def test_a_record_with_fields_and_an_exception_is_one_line() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x",
            logging.WARNING,
            "f.py",
            1,
            "it is %s\nhere",
            ("é",),
            sys.exc_info(),
            extra=event_fields("odd", worker="w0"),
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    record_json = json.loads(line)
    assert tuple(record_json[key] for key in ("level", "logger", "event", "message")) == (
        "warning",
        "x",
        "odd",
        "it is é\nhere",
    )
    assert record_json["worker"] == "w0"
    assert record_json["exception"].endswith("ValueError: a\nb")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("request é for resnet", "request é for resnet"),
        ("request a\n10:00:00 ERROR forged for b", "request a\n  10:00:00 ERROR forged for b"),
        ("request \x1b[2J\r\x00\x9b\u2028\u202e\udcff", r"request \x1b[2J\r\x00\x9b\u2028\u202e\udcff"),
        ("a\tb", "a\tb"),
    ],
)
def test_a_text_of_a_client_neither_forges_a_line_nor_controls_the_terminal(text: str, shown: str) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (text,), "levelname": "DEBUG", "name": "x"})
    assert TextFormatter("%(levelname)s %(name)s: %(message)s").format(record) == f"DEBUG x: {shown}"


def test_fields_do_not_replace_the_common_fields() -> None:
    record = logging.makeLogRecord(
        {"msg": "true", "levelname": "INFO", **event_fields("odd", message="false", path=Path("p"))}
    )
    record_json = json.loads(JsonFormatter().format(record))
    assert (record_json["message"], record_json["path"]) == ("true", "p")


def test_serve_logs_its_life_as_json_only(tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "dense.onnx"))
    with serve(model, "--log-format=json", "--grpc=127.0.0.1:0") as process:
        address = process.address()
        with Client(address) as client:
            for _ in range(50):
                client.model("dense").infer({"x": np.ones((1, 32), np.float32)}, slo=20)
        before = len(process.err.seen)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    records = parsed(process.err.seen)
    assert before < 40, "the log must not have a line for each request"
    check_life(records, address)
    assert of(records, "connected")["logger"] == "clockwork.worker", "the lines of the worker process are included"
    assert process.out.seen[-1] == f"clockwork is serving 1 model on {address}"


def test_a_debug_log_has_lines_for_requests_and_actions_and_can_be_switched_on_while_serving(tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "dense.onnx"))

    def infer(address: str) -> None:
        with Client(address) as client:
            client.model("dense").infer({"x": np.ones((1, 32), np.float32)}, slo=20)

    with serve(model, "--log-format=json", "--http=127.0.0.1:0") as process:
        url = f"http://{process.out.wait_for(r'^clockwork serves HTTP on (.+)$')[1]}/v2/logging"
        address = process.address()
        infer(address)
        assert requests.get(url, timeout=30).json()["log_format"] == "json"
        assert requests.post(url, json={"log_verbose_level": 1}, timeout=30).json()["log_verbose_level"] == 1
        infer(address)
        process.err.wait_for(r'"event": "response"')
        assert requests.post(url, json={"log_verbose_level": 0}, timeout=30).json()["log_verbose_level"] == 0
        infer(address)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    records = [line for line in parsed(process.err.seen) if line["level"] == "debug"]
    (response,) = (line for line in records if line["event"] == "response")
    (request,) = (line for line in records if line["event"] == "request")
    assert (request["model"], request["request"], response["status"]) == ("dense", response["request"], "SUCCESS")
    actions = {line["action"]: line for line in records if line["event"] == "action"}
    results = {line["action"]: line for line in records if line["event"] == "result"}
    assert any(line["kind"] == "Infer" and results[action]["took_ns"] > 0 for action, line in actions.items())


def check_life(records: list[dict[str, Any]], address: str) -> None:
    """Check the log of a server of one model from its start to its end."""
    stages = [line["stage"] for line in records if line["event"] == "stage"]
    assert stages == ["loading", "profiling", "serving", "draining"]
    assert of(records, "start")["logger"] == "clockwork.cli"
    assert of(records, "listening")["address"] == address
    assert [line["protocol"] for line in records if line["event"] == "listening" and "protocol" in line] == ["grpc"]
    assert of(records, "worker_connected")["worker"] == "local"
    assert of(records, "model_loaded")["model"] == "dense"
    assert of(records, "model_profiled")["model"] == "dense"
    assert of(records, "serving")["models"] == 1
    assert of(records, "signal")["signal"] == "SIGTERM"
    assert of(records, "drain_begin")["pending"] == 0
    assert of(records, "drain_end")["unfinished"] == 0


def test_a_failed_start_is_json(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    with serve(str(tmp_path / "broken.onnx"), "--log-format=json") as process:
        assert process.ended() == 1
    records = parsed(process.err.seen)
    assert of(records, "model_failed")["model"] == "broken"
    assert records[-1]["event"] == "failed"
    assert records[-1]["message"].startswith("clockwork: cannot serve broken: ")


def test_a_worker_logs_why_it_is_not_connected(tmp_path: Path) -> None:
    with clockwork(
        "worker", "--controller=127.0.0.1:1", f"--model-root={tmp_path}", "--log-format=json", "--name=w7"
    ) as worker:
        worker.err.wait_for("not_connected")
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    found = of(parsed(worker.err.seen), "not_connected")
    assert (found["worker"], found["address"], found["level"]) == ("w7", "127.0.0.1:1", "warning")


def test_an_error_of_usage_is_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["serve", "--log-format=json", "--slo=soon"]) == 2
    (last,) = parsed(capsys.readouterr().err.splitlines())
    assert "invalid duration 'soon'" in last["message"]
    (tmp_path / "c.toml").write_text('[serve]\nlog-format = "json"\nmodels = ["nowhere.onnx"]\n')
    assert run(["serve", "--config", str(tmp_path / "c.toml")]) == 2
    (last,) = parsed(capsys.readouterr().err.splitlines())
    assert "model file 'nowhere.onnx' does not exist" in last["message"]
    assert run(["serve"]) == 2
    assert capsys.readouterr().err.startswith("clockwork serve: ")
    assert run(["serve", "--log-format=xml"]) == 2
    assert "invalid log format 'xml'; expected one of: human, json" in capsys.readouterr().err


def after_json_began(code: str) -> list[dict[str, Any]]:
    """Run ``code`` in a process after the start of the JSON log; return the lines of stderr."""
    begin = f"import sys; sys.path[:0] = {sys.path!r}; from clockwork.cli.logs import start_log"
    whole = f"{begin}; start_log('info', 'json')\n{code}"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=60, check=False)
    return parsed(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('in the main thread')", "in the main thread"),
        ("import threading\ndef f(): raise ValueError('elsewhere')\nthreading.Thread(target=f).start()", "elsewhere"),
        ("class A:\n  def __del__(self): raise ValueError('at the end')\na = A()\ndel a", "__del__"),
        ("import warnings\nwarnings.warn('mind this')", "mind this"),
        ("import logging\nlogging.getLogger('other').error('by others')", "by others"),
        ("import asyncio\nasync def f(): asyncio.get_running_loop().call_soon(lambda: 1/0); await asyncio.sleep(0)\n"
         "asyncio.run(f())", "Exception in callback"),
    ],
)  # fmt: skip
def test_other_output_on_stderr_is_json(code: str, message: str) -> None:
    records = after_json_began(code)
    assert records[0]["event"] == "start"
    assert message in records[-1]["message"]


def test_the_log_for_people_is_text(tmp_path: Path) -> None:
    with clockwork("worker", "--controller=127.0.0.1:1", f"--model-root={tmp_path}") as worker:
        check_lines_for_people(worker)


def check_lines_for_people(worker: Process) -> None:
    worker.err.wait_for(r"^\d\d:\d\d:\d\d WARNING clockwork.worker: cannot connect to 127.0.0.1:1: .*; retrying")
    worker.err.wait_for(r"^\d\d:\d\d:\d\d INFO clockwork.cli: clockwork \S+ begins$")


def test_the_reason_comes_first_when_a_signal_shuts_the_server_down(tmp_path: Path) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx"))) as server:
        server.address()
        before = len(server.err.seen)
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        reasons = [at for at, line in enumerate(server.err.seen) if "shutting down" in line]
    assert len(reasons) == 1
    assert "SIGTERM: shutting down; a second signal ends the process at once" in server.err.seen[reasons[0]]
    assert not [line for line in server.err.seen[before : reasons[0]] if "drain" in line or "lost" in line]


def test_the_reason_comes_first_when_an_error_shuts_the_server_down(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("nonsense")
    with serve(str(tmp_path / "bad.onnx")) as server:
        assert server.ended() == 1
    lines = server.err.seen
    (first,) = (at for at, line in enumerate(lines) if "ERROR clockwork.cli: shutting down: cannot serve bad" in line)
    assert lines[first + 1 :] == [lines[-1]], "nothing but the result of the command follows"
    assert lines[-1].startswith("clockwork: cannot serve bad: it could not be loaded")
