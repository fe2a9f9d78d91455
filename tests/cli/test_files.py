"""``check-model`` and ``zoo``: commands that need no server."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_graphs
from cli.processes import QUICK, clockwork, save_dense
from clockwork.cli import run
from clockwork.cli.batch_limits import batch_limit_lines
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.requests import ModelStatus
from clockwork.messages.results import ModelInfo
from clockwork.units import ms


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


def odd(width: int) -> object:
    """Return a model that declares a free dimension, and accepts only one size of it."""
    weights = np.ones((width, 3), np.float32)
    return onnx_graphs.model(
        [onnx_graphs.node("MatMul", "x w", "y")],
        [onnx_graphs.value("x", ["N", "length"])],
        [onnx_graphs.value("y", ["N", 3])],
        w=weights,
    )


@pytest.mark.parametrize("name", ["dense", "free dimension of 1", "no size fits", "no model"])
def test_check_model_and_serve_come_to_the_same_verdict(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protos = {"dense": onnx_graphs.dense(), "free dimension of 1": odd(1), "no size fits": odd(7777)}
    file = tmp_path / "m.onnx"
    file.write_bytes(protos[name].SerializeToString() if name in protos else b"no model")
    verdict = run(["check-model", str(file), "--max-batch=2"])
    reason = capsys.readouterr().err.strip()
    with clockwork("serve", str(file), "--listen=127.0.0.1:0", *QUICK) as process:
        if verdict == 0:
            assert process.address()
        else:
            assert verdict == 1
            process.err.wait_for(re.escape(reason.rpartition(": ")[2]))


def test_check_model_says_why_batches_are_no_larger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_dense(tmp_path / "dense/model.onnx")
    (file.parent / "config.pbtxt").write_text("max_batch_size: 2")
    assert run(["check-model", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "batches have at most " in shown
    assert "max_batch_size is 2 in the model's config.pbtxt" in shown or "larger ones take longer per row" in shown


def test_status_folds_models_whose_batches_have_the_same_limit() -> None:
    def status(name: str, infer: dict[int, int], stopped: str = "") -> ModelStatus:
        info = ModelInfo(name, name, "", "", (), (), True, 1, 1, name)
        times = {size: Measurement((ms(took),)) for size, took in infer.items()}
        return ModelStatus(info, {"cpu": ModelProfile(Measurement((1,)), times, 16, stopped=stopped)})

    slow = "batch size 4 takes 301 ms; the limit for one batch is 250 ms"
    models = [status("a", {1: 75, 2: 150}, slow), status("b", {1: 75, 2: 150}, slow), status("c", {1: 10, 2: 30})]
    assert list(batch_limit_lines([*models, status("d", {1: 10, 2: 12})])) == [
        f"a and 1 more: batches have at most 2 rows: {slow}",
        "c: batches have at most 1 row, because larger ones take longer per row (10 ms at batch size 1, 15 ms at 2)",
    ]


def test_zoo_ls_and_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "ls"]) == 0
    assert "mlp\n" in capsys.readouterr().out
    for _ in range(2):
        assert run(["zoo", "build", str(tmp_path / "new"), "mlp"]) == 0
        assert capsys.readouterr().out == f"{tmp_path}/new/mlp.onnx  19.1 KiB\n"
    assert run(["check-model", str(tmp_path / "new/mlp.onnx"), "--max-batch", "1"]) == 0
