"""``ls``, ``status`` and ``infer`` against a running server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cli.processes import Process, save_dense, serve
from clockwork.cli import run
from clockwork.runtimes.ort import onnxruntime


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("models") / "dense.onnx")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Process]:
    with serve(str(model)) as process:
        process.address()
        yield process


@pytest.fixture(autouse=True)
def at_the_server(server: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_ADDRESS", server.address())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", np.arange(64, dtype=np.float32).reshape(2, 32))
    return tmp_path / "rows.npy"


def test_ls_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "version", "inputs", "outputs", "max", "batch", "weights"]
    assert row.split()[:7] == ["dense", "1", "x", "FP32[-1,32]", "y", "FP32[-1,5]", "2"]


def test_ls_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["name"] == "dense"
    assert listed["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 32], "optional": False}]


def test_infer_prints_the_largest_elements_and_the_timing(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "dense", "--input", str(rows)]) == 0
    shape, first, second, timing = capsys.readouterr().out.splitlines()
    assert shape == "y float32[2, 5]"
    assert first.startswith("  row 0: largest: [")
    assert second.startswith("  row 1: largest: [")
    assert "s round trip; at the server" in timing


def test_infer_prints_the_outputs_as_json(model: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "dense", "--input", f"x={rows}", "--slo", "20s", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (output,) = answer["outputs"]
    (expected,) = onnxruntime.InferenceSession(model).run(None, {"x": np.load(rows)})
    assert (output["name"], output["shape"], output["datatype"]) == ("y", [2, 5], "FP32")
    np.testing.assert_allclose(np.reshape(output["data"], (2, 5)), expected, rtol=1e-4)
    assert answer["timing"]["batch_size"] == 2
    assert 0 < answer["timing"]["exec"] <= answer["timing"]["total"] <= answer["round_trip"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer", "sparse", "--input", "x.npy"], "model 'sparse' is unknown; served models: dense"),
        (["infer", "dense", "--input", "nowhere.npy"], "cannot read nowhere.npy: No such file"),
        (["infer", "dense", "--input", "ROWS", "--slo", "1us"], "SLO"),
    ],
)
def test_a_failed_infer_prints_one_line(
    arguments: list[str], message: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(rows) if argument == "ROWS" else argument for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("clockwork: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_status_prints_tables(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "dense", "--input", str(rows)]) == 0
    capsys.readouterr()
    assert run(["status"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("clockwork 0.")
    assert ": serving, scheduler clockwork, 0 requests outstanding\n" in shown
    device = next(line for line in shown.splitlines() if line.split()[:1] == ["local"])
    assert device.split()[-1] == "ready"
    assert {"Devices", "Models", "Requests"} <= {line.strip() for line in shown.splitlines()}
    assert run(["status", "--errors"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(line[:2] == ["local/gpu0", "infer"] for line in lines)
    assert not any(line[:2] == ["dense", "infer"] for line in lines)
    assert run(["status", "--by-model"]) == 0
    assert any(line.split()[:2] == ["dense", "infer"] for line in capsys.readouterr().out.splitlines())


def test_status_prints_json(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "dense", "--input", str(rows)]) == 0
    capsys.readouterr()
    assert run(["status", "--json"]) == 0
    server = json.loads(capsys.readouterr().out)
    assert server["stage"] == "serving"
    (worker,) = server["workers"]
    assert worker["id"] == "local"
    (model,) = server["models"]
    (profile,) = model["profiles"].values()
    assert profile["infer"]["1"]["p50"] <= profile["infer"]["1"]["p99"] <= max(profile["infer"]["1"]["samples"])
    for predictions in (server["predictions"], worker["gpus"][0]["predictions"], model["predictions"]):
        infer = predictions["infer"]
        assert infer["duration"]["count"] >= 1
        assert infer["within"] + infer["duration"]["under"] == infer["duration"]["count"]
        assert infer["start"].keys() >= {"over", "over_p50", "over_p99", "over_max", "under", "under_max"}


def test_the_example_client_runs(server: Process) -> None:
    example = Path(__file__).resolve().parent.parent.parent / "examples" / "client.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(example), server.address()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("dense: <InferenceResult of dense: y FP32[1,5]>, ")
    assert done.stdout.count("\n") == 1
