"""What is refused before PyTorch sees it, and what PyTorch itself refuses."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from runtimes.torch.programs import rewritten, saved_conv

import torch  # isort: skip - `programs` skips these tests where there is none

from clockwork.errors import InvalidModelError
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.archive import find, read


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved_conv(tmp_path / "m.pt2")


def refused(path: Path, words: str) -> None:
    with pytest.raises(InvalidModelError, match=words):
        TorchRuntime().load_model(path)


def test_a_path_means_one_file(tmp_path: Path) -> None:
    saved_conv(tmp_path / "a" / "2" / "model.pt2")
    assert find(tmp_path / "a") == tmp_path / "a" / "2" / "model.pt2"
    with pytest.raises(InvalidModelError, match=r"'b.onnx' is not an exported PyTorch program: expected a .pt2 file"):
        find(tmp_path / "b.onnx")


def test_the_digest_is_of_the_content(model: Path) -> None:
    copy = model.with_name("copy.pt2")
    copy.write_bytes(model.read_bytes())
    assert read(copy).digest == read(model).digest
    assert read(saved_conv(model.with_name("other.pt2"), seed=1)).digest != read(model).digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "'x.pt2' is not an exported PyTorch program, or is cut off: its 0 bytes are no zip archive"),
        (b"this is no archive", "its 18 bytes are no zip archive; make it with clockwork export"),
    ],
)
def test_what_is_no_archive_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    refused(tmp_path / "x.pt2", words)


def test_a_file_that_is_cut_off_is_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-200])
    refused(model, "cut off")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "weights.pt2")
    refused(tmp_path / "weights.pt2", "an archive of 0 exported programs, and one is expected")


def test_a_compressed_archive_is_refused(model: Path) -> None:
    refused(rewritten(model, lambda name, content: content, zipfile.ZIP_DEFLATED), "is compressed")


def test_a_package_of_aotinductor_is_refused(model: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("m/data/aotinductor/model/x.so", b"")
    refused(model, "a package that AOTInductor made: code and weights, without .* clockwork export --compile")


def test_two_entries_of_one_name_are_refused(model: Path) -> None:
    with zipfile.ZipFile(model, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("m/models/model.json", b"{}")
    refused(model, "files with .* names")


def test_missing_weights_are_named(model: Path) -> None:
    changed = rewritten(model, lambda name, content: None if name == "data/weights/weight_0" else content)
    refused(changed, "'conv.weight' of 'changed.pt2' is to lie in 'weight_0', which the archive does not have")


def test_a_description_that_is_no_json_is_refused(model: Path) -> None:
    changed = rewritten(model, lambda name, content: b"{" if name == "models/model.json" else content)
    refused(changed, "models/model.json of 'changed.pt2' is no JSON")


def test_a_graph_that_means_nothing_is_refused(model: Path) -> None:
    changed = rewritten(model, lambda name, content: b"{}" if name == "models/model.json" else content)
    refused(changed, f"PyTorch {torch.__version__.partition('+')[0]}.* cannot load 'changed.pt2'")


def test_an_operator_that_does_not_exist_is_refused_by_name(model: Path) -> None:
    changed = rewritten(model, lambda name, content: content.replace(b"aten.conv2d.default", b"mine.conv2d.default"))
    refused(changed, r"it uses mine.conv2d.default, which PyTorch .* does not have")


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.directory),)


def evil(directory: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Evil(directory), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_of_anything_but_tensors_is_not_read(plain: bool, model: Path, tmp_path: Path) -> None:
    content = pickle.dumps(Evil(tmp_path / "ran")) if plain else evil(tmp_path / "ran")
    refused(
        rewritten(model, lambda name, it: content if name.startswith("data/sample_inputs/") else it),
        "holds more than tensors, and is not loaded",
    )
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_pickled_objects_are_not_read(model: Path, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            described = json.loads(content)
            described["config"]["conv.weight"]["use_pickle"] = True
            return json.dumps(described).encode()
        return evil(tmp_path / "ran") if name == "data/weights/weight_0" else content

    refused(rewritten(model, change), "holds more than tensors")
    assert not (tmp_path / "ran").exists()


def test_a_constant_that_is_no_tensor_is_not_read(model: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name == "data/constants/model_constants_config.json":
            described = json.loads(content)
            described["config"]["offset"]["tensor_meta"] = None
            return json.dumps(described).encode()
        return content

    refused(rewritten(model, change), "'offset' of 'changed.pt2' is no tensor, but an object of Python's")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "m.pt2", "model file 'm.pt2' does not exist")
