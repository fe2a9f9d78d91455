from pathlib import Path

import pytest

from clockwork.errors import InvalidModelError
from clockwork.repository.model_root import resolve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "zoo" / "1").mkdir(parents=True)
    (root / "m.onnx").write_text("m")
    (root / "zoo" / "1" / "model.onnx").write_text("z")
    (tmp_path / "secret.onnx").write_text("s")
    (tmp_path / "models-too").mkdir()
    (root / "out.onnx").symlink_to(tmp_path / "secret.onnx")
    (root / "outside").symlink_to(tmp_path)
    (root / "neighbour").symlink_to(tmp_path / "models-too")
    (root / "in.onnx").symlink_to("zoo/1/model.onnx")
    (root / "circle").symlink_to("circle")
    (root / "nothing").symlink_to("nowhere")
    return root


@pytest.mark.parametrize("path", ["m.onnx", "zoo", "zoo/1", "zoo/1/model.onnx", "./m.onnx", "zoo//1/", "in.onnx"])
def test_files_below_the_root_are_found_under_their_own_names(root: Path, path: str) -> None:
    found = resolve(root, path)
    assert found == root.resolve() / path
    assert found.is_absolute()


def test_the_root_may_be_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert resolve(tmp_path / "link", "m.onnx") == root.resolve() / "m.onnx"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "1 to 4096 characters"),
        ("m.onnx\0", "no NUL"),
        ("m" * 5000, "1 to 4096 characters"),
        ("m" * 300, "there is no"),
        (".", "names the model root itself"),
        ("/etc/passwd", "is absolute"),
        ("//etc/passwd", "is absolute"),
        ("../secret.onnx", "contains '..'"),
        ("zoo/../../secret.onnx", "contains '..'"),
        ("zoo/../m.onnx", "contains '..'"),
        ("out.onnx", "is outside of"),
        ("outside/secret.onnx", "is outside of"),
        ("neighbour", "is outside of"),
        ("missing.onnx", "there is no 'missing.onnx'"),
        ("m.onnx/x", "there is no"),
        ("circle", "there is no"),
        ("nothing", "there is no"),
        ("outside/missing", "there is no"),
    ],
)
def test_other_paths_are_refused_without_revealing_anything_outside(root: Path, path: str, message: str) -> None:
    with pytest.raises(InvalidModelError) as refusal:
        resolve(root, path)
    assert message in str(refusal.value)
    assert str(root.parent) not in str(refusal.value)
    assert len(str(refusal.value)) < 400
