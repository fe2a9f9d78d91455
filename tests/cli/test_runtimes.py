"""``--runtime``, with and without PyTorch."""

from pathlib import Path

import pytest

from cli.processes import save_dense
from clockwork.cli import run, runtimes
from clockwork.cli.runtimes import make_runtime
from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.runtimes.by_file import RuntimeByFile, is_program
from clockwork.runtimes.onnx import OnnxRuntime


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)


@pytest.mark.usefixtures("without_torch")
def test_without_pytorch_the_error_names_the_command_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "nets:Net", "--input", "1x8"]) == 1
    assert capsys.readouterr().err == "clockwork: PyTorch is not installed; run: pip install 'torch>=2.9'\n"
    with pytest.raises(InvalidRequestError, match="PyTorch is not installed"):
        make_runtime("torch", 1)
    (tmp_path / "m.pt2").touch()
    with pytest.raises(InvalidModelError, match="a PyTorch program, and PyTorch is not installed on the worker"):
        make_runtime("auto", 1).load_model(tmp_path / "m.pt2")


@pytest.mark.usefixtures("without_torch")
def test_without_pytorch_onnx_models_are_loaded(tmp_path: Path) -> None:
    runtime = make_runtime("auto", 1)
    assert isinstance(runtime, RuntimeByFile)
    info = runtime.load_model(save_dense(tmp_path / "dense.onnx")).info
    assert info.runtime == runtime.version == OnnxRuntime().version
    assert runtime.device_kind == OnnxRuntime().device_kind


def test_the_runtime_onnx_refuses_pytorch_programs(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"'m.pt2' is not an ONNX model"):
        make_runtime("onnx", 1).load_model(tmp_path / "m.pt2")


def test_an_unknown_runtime_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "--runtime", "tensorflow"]) == 2
    assert "invalid runtime 'tensorflow'; expected one of: auto, onnx, torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "path", "program"),
    [
        ("a.pt2", "a.pt2", True),
        ("a.onnx", "a.onnx", False),
        ("a/model.pt2", "a", True),
        ("a/1/model.pt2", "a", True),
        ("a/1/model.onnx", "a", False),
    ],
)
def test_the_suffix_of_the_file_selects_the_runtime(file: str, path: str, program: bool, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    assert is_program(tmp_path / path) is program
