"""``check-model`` and ``zoo``: commands that need no server."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_graphs
from cli.processes import QUICK, clockwork, save_dense, serve
from clockwork.cli import run
from clockwork.cli.batch_limits import batch_limit_lines
from clockwork.client import Client
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.requests import ModelStatus
from clockwork.messages.results import ModelInfo
from clockwork.units import ms
from runtimes.test_examples import flattened, picky


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


@pytest.mark.parametrize("name", ["dense", "free dimension of 1", "size from the graph", "no size fits", "no model"])
def test_check_model_and_serve_come_to_the_same_verdict(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protos = {"dense": onnx_graphs.dense(), "free dimension of 1": odd(1), "size from the graph": odd(7777)}
    protos["no size fits"] = flattened(7, 11)
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


def test_check_model_shows_the_inputs_that_it_measured_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(onnx_graphs.saved(flattened(3, 40, 52), tmp_path / "ocr.onnx"))
    assert run(["check-model", path, "--max-batch=1", "--model-shape", "ocr:x=3x40x52"]) == 0
    assert "  example  x FP32[1,3,40,52] (--model-shape)\n" in capsys.readouterr().out
    assert run(["check-model", path, "--max-batch=1", "--json", "--model-shape", "ocr:x=3x40x52"]) == 0
    assert json.loads(capsys.readouterr().out)["info"]["example"]["shapes"] == [[1, 3, 40, 52]]


def test_check_model_shows_what_was_tried_if_nothing_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-model", str(onnx_graphs.saved(picky(), tmp_path / "m.onnx"))]) == 0
    shown = capsys.readouterr().out
    assert "  refused  x BYTES[1]: the model rejects these inputs" in shown
    assert "  refused  x BYTES[1] with random elements: the model rejects these inputs" in shown
    assert (
        "  not measured yet: the first request that is executed will be the measurement (--unmeasured-cap)\n" in shown
    )


@pytest.mark.parametrize("command", ["check-model", "serve", "worker"])
def test_a_malformed_shape_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(onnx_graphs.saved(picky(), tmp_path / "m.onnx"))
    models = [] if command == "worker" else [path]
    assert run([command, *models, "--model-shape=m=3"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "invalid shape 'm=3'; write NAME:INPUT=DIMENSIONS, for example ocr:x=3x48x320" in shown


def test_the_name_in_a_shape_must_be_that_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(onnx_graphs.saved(picky(), tmp_path / "m.onnx"))
    assert run(["serve", path, "--model-shape=other:x=3"]) == 2
    assert "model 'other' is unknown; served models: m" in " ".join(capsys.readouterr().err.split())


def test_serve_measures_with_given_shapes_and_serves_an_unmeasured_model(tmp_path: Path) -> None:
    ocr = onnx_graphs.saved(flattened(3, 40, 52), tmp_path / "ocr.onnx")
    text = onnx_graphs.saved(picky(), tmp_path / "text.onnx")
    (tmp_path / "clockwork.toml").write_text('[serve]\nmodel-shape = ["ocr:x=3x40x52"]\n')
    options = (f"--config={tmp_path / 'clockwork.toml'}", "--max-batch=2", "--profile-seconds=0.01")
    with serve(str(ocr), str(text), *options) as process, Client(process.address()) as client:
        profiles = {model.info.name: next(iter(model.profiles.values())) for model in client.status().models}
        assert (profiles["ocr"].input_shapes, profiles["ocr"].batch_sizes) == (((3, 40, 52),), (1, 2))
        assert profiles["text"].unmeasured
        process.err.wait_for("text is served without measured times")
        found = client.infer("text", {"x": np.array([b"3"], object)}, slo=5)
        assert found["y"].tolist() == [[4, 5, 6, 7]]
        (profile,) = next(model for model in client.status().models if model.info.name == "text").profiles.values()
        assert not profile.unmeasured
        assert profile.infer[1].median < ms(50)
