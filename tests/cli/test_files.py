"""``check-model`` and ``zoo``: commands that need no server."""

import json
from pathlib import Path

import onnx
import pytest

import onnx_graphs
from cli.processes import save_dense
from clockwork.cli import run


def test_check_model_prints_inputs_outputs_and_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-model", str(save_dense(tmp_path / "dense.onnx")), "--max-batch", "5"]) == 0
    shown = capsys.readouterr().out
    for line in ("input    x FP32[-1,32]", "output   y FP32[-1,5]", "batches  yes"):
        assert f"  {line}\n" in shown
    sizes = [line.split()[0] for line in shown.partition("batch size")[2].splitlines()[2:]]
    assert sizes == ["1", "2", "4"]


def test_check_model_json_of_a_model_that_does_not_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx_graphs.dense(batch=1), tmp_path / "single.onnx")
    assert run(["check-model", str(tmp_path / "single.onnx"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["info"]["batchable"] is False
    assert list(facts["infer"]) == ["1"]
    assert facts["infer"]["1"]["p50"] > 0


def test_check_model_fills_free_dimensions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = onnx_graphs.model(
        [onnx_graphs.node("Relu", "x", "y")],
        [onnx_graphs.value("x", ["N", "length"])],
        [onnx_graphs.value("y", ["N", "length"])],
    )
    onnx.save(free, tmp_path / "free.onnx")
    assert run(["check-model", str(tmp_path / "free.onnx"), "--free-dim", "7", "--max-batch", "1"]) == 0
    assert "x FP32[-1,-1]" in capsys.readouterr().out


def test_zoo_ls_and_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "ls"]) == 0
    assert "mlp\n" in capsys.readouterr().out
    for _ in range(2):
        assert run(["zoo", "build", str(tmp_path / "new"), "mlp"]) == 0
        assert capsys.readouterr().out == f"{tmp_path}/new/mlp.onnx  19.1 KiB\n"
    assert run(["check-model", str(tmp_path / "new/mlp.onnx"), "--max-batch", "1"]) == 0
