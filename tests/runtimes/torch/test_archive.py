"""Files that are refused before PyTorch reads them, or by PyTorch itself."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from runtimes.torch.programs import rewritten, saved_conv

import torch  # isort: skip - `programs` skips these tests without PyTorch

from clockwork.errors import InvalidModelError
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.archive import find, read


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved_conv(tmp_path / "m.pt2")


def refused(path: Path, words: str) -> None:
    with pytest.raises(InvalidModelError, match=words):
        TorchRuntime().load_model(path)


def test_a_path_refers_to_one_file(tmp_path: Path) -> None:
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
        (b"", "'x.pt2' is not an exported PyTorch program, or is truncated: its 0 bytes are not a zip archive"),
        (b"this is no archive", "its 18 bytes are not a zip archive; create it with clockwork export"),
    ],
)
def test_a_file_that_is_not_an_archive_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    refused(tmp_path / "x.pt2", words)


def test_a_truncated_file_is_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-200])
    refused(model, "truncated")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "weights.pt2")
    refused(tmp_path / "weights.pt2", "an archive of 0 exported programs, not of one")


def test_a_compressed_archive_is_refused(model: Path) -> None:
    refused(rewritten(model, lambda name, content: content, zipfile.ZIP_DEFLATED), "is compressed")


def test_a_package_of_aotinductor_is_refused(model: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("m/data/aotinductor/model/x.so", b"")
    refused(model, "a package made by AOTInductor: it has no program .* clockwork export --compile")


def test_two_entries_of_one_name_are_refused(model: Path) -> None:
    with zipfile.ZipFile(model, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("m/models/model.json", b"{}")
    refused(model, "files with .* names")


def test_missing_weights_are_named(model: Path) -> None:
    changed = rewritten(model, lambda name, content: None if name == "data/weights/weight_0" else content)
    refused(changed, "'conv.weight' of 'changed.pt2' is stored in 'weight_0', which is not in the archive")


def test_a_description_that_is_not_json_is_refused(model: Path) -> None:
    changed = rewritten(model, lambda name, content: b"{" if name == "models/model.json" else content)
    refused(changed, "models/model.json of 'changed.pt2' is not JSON")


def test_an_invalid_graph_is_refused(model: Path) -> None:
    changed = rewritten(model, lambda name, content: b"{}" if name == "models/model.json" else content)
    refused(changed, f"PyTorch {torch.__version__.partition('+')[0]}.* cannot load 'changed.pt2'")


def test_an_operator_that_does_not_exist_is_refused_by_name(model: Path) -> None:
    changed = rewritten(model, lambda name, content: content.replace(b"aten.conv2d.default", b"mine.conv2d.default"))
    refused(changed, r"it uses mine.conv2d.default, which this release lacks")


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
def test_a_pickle_with_more_than_tensors_is_refused(plain: bool, model: Path, tmp_path: Path) -> None:
    content = pickle.dumps(Evil(tmp_path / "ran")) if plain else evil(tmp_path / "ran")
    refused(
        rewritten(model, lambda name, old: content if name.startswith("data/sample_inputs/") else old),
        "contains more than tensors",
    )
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_pickled_objects_are_refused(model: Path, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            described = json.loads(content)
            described["config"]["conv.weight"]["use_pickle"] = True
            return json.dumps(described).encode()
        return evil(tmp_path / "ran") if name == "data/weights/weight_0" else content

    refused(rewritten(model, change), "contains more than tensors")
    assert not (tmp_path / "ran").exists()


def test_a_constant_that_is_not_a_tensor_is_refused(model: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name == "data/constants/model_constants_config.json":
            described = json.loads(content)
            described["config"]["offset"]["tensor_meta"] = None
            return json.dumps(described).encode()
        return content

    refused(rewritten(model, change), "'offset' of 'changed.pt2' is a Python object; only tensors can be loaded")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "m.pt2", "model file 'm.pt2' does not exist")
