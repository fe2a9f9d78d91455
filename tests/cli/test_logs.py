"""The log as JSON: every line of stderr, of every process, whatever happens."""

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

from cli.processes import Process, clockwork, save_dense, serve
from clockwork.cli import run
from clockwork.cli.logs import JsonFormatter
from clockwork.client import Client
from clockwork.host.telling import about


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    """Every line, each of which must be an object with what all have."""
    made = [json.loads(line) for line in lines]
    for line in made:
        assert {"ts", "level", "logger", "event", "message"} <= set(line)
        assert datetime.fromisoformat(line["ts"]).utcoffset() is not None
        assert len(line["ts"]) == len("2026-01-01T00:00:00.000000Z")
    return made


def of(lines: list[dict[str, Any]], event: str) -> dict[str, Any]:
    """The first line about it."""
    return next(line for line in lines if line["event"] == event)


def test_a_record_is_a_line_with_its_fields_and_its_exception_in_one() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.WARNING, "f.py", 1, "it is %s\nhere", ("é",), sys.exc_info(), extra=about("odd", worker="w0")
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["event"], said["message"]) == ("warning", "x", "odd", "it is é\nhere")
    assert said["worker"] == "w0"
    assert said["exception"].endswith("ValueError: a\nb")


def test_fields_cannot_take_the_place_of_what_all_lines_have() -> None:
    record = logging.makeLogRecord(
        {"msg": "true", "levelname": "INFO", **about("odd", message="false", path=Path("p"))}
    )
    said = json.loads(JsonFormatter().format(record))
    assert (said["message"], said["path"]) == ("true", "p")


def test_serve_says_what_matters_and_nothing_but_json(tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "dense.onnx"))
    with serve(model, "--log-format=json", "--grpc=127.0.0.1:0") as process:
        address = process.address()
        with Client(address) as client:
            for _ in range(50):
                client.model("dense").infer({"x": np.ones((1, 32), np.float32)}, slo=20)
        before = len(process.err.seen)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    said = parsed(process.err.seen)
    assert before < 40, "there is no line for each request"
    check_life(said, address)
    assert of(said, "connected")["logger"] == "clockwork.worker", "the child's lines are among them"
    assert process.out.seen[-1] == f"clockwork is serving 1 model on {address}"


def check_life(said: list[dict[str, Any]], address: str) -> None:
    """The life of a server of one model."""
    stages = [line["stage"] for line in said if line["event"] == "stage"]
    assert stages == ["loading", "profiling", "serving", "draining"]
    assert of(said, "start")["logger"] == "clockwork.cli"
    assert of(said, "listening")["address"] == address
    assert [line["protocol"] for line in said if line["event"] == "listening" and "protocol" in line] == ["grpc"]
    assert of(said, "worker_connected")["worker"] == "local"
    assert of(said, "model_loaded")["model"] == "dense"
    assert of(said, "model_profiled")["model"] == "dense"
    assert of(said, "serving")["models"] == 1
    assert of(said, "signal")["signal"] == "SIGTERM"
    assert of(said, "drain_begin")["pending"] == 0
    assert of(said, "drain_end")["unfinished"] == 0


def test_a_worker_that_dies_and_a_start_that_fails_are_json(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    with serve(str(tmp_path / "broken.onnx"), "--log-format=json") as process:
        assert process.ended() == 1
    said = parsed(process.err.seen)
    assert of(said, "model_failed")["model"] == "broken"
    assert said[-1]["event"] == "failed"
    assert said[-1]["message"].startswith("clockwork: cannot load broken.onnx: ")


def test_a_worker_alone_says_why_it_is_not_connected(tmp_path: Path) -> None:
    with clockwork(
        "worker", "--controller=127.0.0.1:1", f"--model-root={tmp_path}", "--log-format=json", "--name=w7"
    ) as worker:
        worker.err.wait_for("not_connected")
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    found = of(parsed(worker.err.seen), "not_connected")
    assert (found["worker"], found["address"], found["level"]) == ("w7", "127.0.0.1:1", "warning")


def test_what_is_asked_wrongly_is_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["serve", "--log-format=json", "--slo=soon"]) == 2
    (said,) = parsed(capsys.readouterr().err.splitlines())
    assert "invalid duration 'soon'" in said["message"]
    (tmp_path / "c.toml").write_text('[serve]\nlog-format = "json"\nmodels = ["nowhere.onnx"]\n')
    assert run(["serve", "--config", str(tmp_path / "c.toml")]) == 2
    (said,) = parsed(capsys.readouterr().err.splitlines())
    assert "model file 'nowhere.onnx' does not exist" in said["message"]
    assert run(["serve"]) == 2
    assert capsys.readouterr().err.startswith("clockwork serve: ")
    assert run(["serve", "--log-format=xml"]) == 2
    assert "invalid log format 'xml'; expected one of: human, json" in capsys.readouterr().err


def after_json_began(code: str) -> list[dict[str, Any]]:
    """What a process says on stderr that logs JSON and then does that."""
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
def test_whoever_else_speaks_is_json(code: str, message: str) -> None:
    said = after_json_began(code)
    assert said[0]["event"] == "start"
    assert message in said[-1]["message"]


def test_for_people_it_stays_as_it_is(tmp_path: Path) -> None:
    with clockwork("worker", "--controller=127.0.0.1:1", f"--model-root={tmp_path}") as worker:
        check_lines_for_people(worker)


def check_lines_for_people(worker: Process) -> None:
    worker.err.wait_for(r"^\d\d:\d\d:\d\d WARNING clockwork.worker: cannot connect to 127.0.0.1:1: .*; trying again")
    worker.err.wait_for(r"^\d\d:\d\d:\d\d INFO clockwork.cli: clockwork \S+ begins$")
