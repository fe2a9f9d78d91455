"""The zoo: its models can be served, and their outputs depend on their inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.ort import onnxruntime
from clockwork.zoo import build, names

#: The other networks take seconds and hundreds of megabytes; the same code builds them.
QUICK = ("mlp", "densenet121", "inception_v1", "resnet50", "shufflenet", "squeezenet")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_computes_each_row_independently_and_distinguishes_rows(name: str, directory: Path) -> None:
    model = session(build(name, directory))
    (data,), (output,) = model.get_inputs(), model.get_outputs()
    assert data.name == "data"
    assert data.shape[0] == output.shape[0] == "N"
    assert output.name == ("logits" if name == "densenet121" else "prob")
    rows = np.random.default_rng(3).random((3, *data.shape[1:]), dtype=np.float32)
    rows[2] = 0.5  # an image of one colour
    alone = [model.run(None, {"data": rows[i : i + 1]})[0] for i in range(3)]
    for size in (2, 3):
        together = model.run(None, {"data": rows[:size]})[0]
        np.testing.assert_allclose(together, np.concatenate(alone[:size]), rtol=1e-3, atol=1e-6)
    outputs = np.concatenate(alone).reshape(3, -1)
    assert np.isfinite(outputs).all()
    if output.name == "prob":
        np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-3)
        assert (outputs.max(1) > 2 / outputs.shape[1]).all()  # one class has a clearly higher probability
        assert (outputs.max(1) < 0.99).all()  # but is not certain
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(outputs[i] - outputs[j]) > 0.05 * np.linalg.norm(outputs[i])


@pytest.mark.parametrize("name", ["mlp", "squeezenet", "shufflenet"])
def test_each_seed_gives_its_own_file(name: str, tmp_path: Path) -> None:
    files = [build(name, tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1))]
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("name", ["mlp", "squeezenet"])
def test_a_model_is_valid_onnx_with_metadata(name: str, directory: Path) -> None:
    model = onnx.load_model(build(name, directory))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "clockwork.zoo.format": "1",
        "clockwork.zoo.name": name,
        "clockwork.zoo.seed": "0",
    }
    assert len(model.graph.input) == 1
    assert not {"Dropout", "ConstantOfShape"} & {node.op_type for node in model.graph.node}


def test_the_runtime_batches_the_models(directory: Path) -> None:
    host = OnnxRuntime().load_model(build("mlp", directory))
    assert host.info.batchable
    assert host.in_place
    assert [info.describe() for info in host.info.inputs + host.info.outputs] == [
        "data FP32[-1,64]",
        "prob FP32[-1,10]",
    ]


def test_a_file_that_is_up_to_date_is_not_rewritten(tmp_path: Path) -> None:
    file = build("mlp", tmp_path)
    before = file.stat()
    assert build("mlp", tmp_path) == file
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.onnx"]


@pytest.mark.parametrize("change", ["seed", "short", "empty", "format"])
def test_a_file_that_is_out_of_date_is_rewritten(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = 1 if change == "seed" else 0
    file = build("mlp", tmp_path, seed)
    content = file.read_bytes()
    if change == "short":
        file.write_bytes(content[:-1])
    if change == "empty":
        file.write_bytes(b"")
    if change == "format":
        monkeypatch.setattr("clockwork.zoo.file.FORMAT", 2)
    again = build("mlp", tmp_path).read_bytes()
    assert (again == content) is (change in ("short", "empty"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = build("mlp", tmp_path, 1)
    content = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clockwork.zoo.file.Path.replace", full)
    with pytest.raises(InvalidRequestError, match=r"cannot write .*mlp\.onnx: No space left"):
        build("mlp", tmp_path)
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_unknown_names_and_seeds_are_refused(tmp_path: Path) -> None:
    assert names()[0] == "mlp"
    assert set(QUICK) <= set(names())
    with pytest.raises(InvalidRequestError, match="unknown network 'lenet'; expected one of: mlp, alexnet, "):
        build("lenet", tmp_path)
    with pytest.raises(InvalidRequestError, match="seed is -1"):
        build("mlp", tmp_path, -1)


def test_an_onnx_package_without_test_data_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServerError, match=r"onnx .* has no graph of alexnet"):
        build("alexnet", tmp_path)
