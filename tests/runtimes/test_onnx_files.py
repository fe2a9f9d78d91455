"""Finding model files, and refusing files before ONNX Runtime reads them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from clockwork.errors import InvalidModelError
from clockwork.runtimes.locating import version_of
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.files import find, read
from onnx_graphs import FLOAT, dense, model, node, saved, saved_with_external_data, value


@pytest.mark.parametrize(
    ("files", "path", "found"),
    [
        (["a.onnx"], "a.onnx", "a.onnx"),
        (["a/model.onnx"], "a", "a/model.onnx"),
        (["a/1/model.onnx", "a/9/model.onnx", "a/10/model.onnx"], "a", "a/10/model.onnx"),
        (["a/1/model.onnx", "a/2/model.onnx"], "a/1", "a/1/model.onnx"),
        (["a/1/model.onnx", "a/notes/model.onnx"], "a", "a/1/model.onnx"),
        (["a/1/model.onnx/model.onnx"], "a", "a/1/model.onnx/model.onnx"),
        (["a/model.onnx/model.onnx"], "a", "a/model.onnx/model.onnx"),
        (["a/b.onnx"], "a", "a/b.onnx"),
        (["a/b.onnx", "a/other.onnx"], "a", "a/b.onnx"),
        (["a/b.onnx", "a/model.onnx"], "a", "a/model.onnx"),
        (["a/2/anything.onnx", "a/other.onnx"], "a", "a/2/anything.onnx"),
        (["mnt/b/1/model.onnx"], "mnt", "mnt/b/1/model.onnx"),
        (["mnt/other/3/net.onnx"], "mnt", "mnt/other/3/net.onnx"),
        (["mnt/b/1/model.onnx", "mnt/other/1/model.onnx"], "mnt", "mnt/b/1/model.onnx"),
        (["mnt/b/1/model.onnx", "mnt/other/1/a.onnx", "mnt/other/1/b.onnx"], "mnt", "mnt/b/1/model.onnx"),
        (["a/.ipynb_checkpoints/a-checkpoint.onnx", "a/.hidden.onnx", "a/b.onnx"], "a", "a/b.onnx"),
        (["a/lost+found/x.onnx", "a/1/model.onnx"], "a", "a/1/model.onnx"),
        (["mnt/lost+found/x.onnx", "mnt/.git/1/model.onnx", "mnt/c/1/model.onnx"], "mnt", "mnt/c/1/model.onnx"),
        (["a/2024/notes.txt", "a/b.onnx"], "a", "a/b.onnx"),
    ],
)
def test_a_path_identifies_one_model_file(files: list[str], path: str, found: str, tmp_path: Path) -> None:
    for file in files:
        saved(dense(), tmp_path / file)
    assert find(tmp_path / path, "b") == tmp_path / found


@pytest.mark.parametrize(
    ("file", "path", "version"),
    [
        ("repo/iris/2/model.onnx", "repo/iris/2", "2"),
        ("repo/iris/2/model.onnx", "repo/iris/2/model.onnx", "2"),
        ("repo/iris/2/model.onnx", "repo/iris", "2"),
        ("repo/iris/2/model.onnx", "repo", "2"),
        ("repo/iris/2/net.onnx", "repo/iris", "2"),
        ("repo/iris/20/model.onnx/model.onnx", "repo/iris", "20"),
        ("repo/iris/model.onnx", "repo/iris", "1"),
        ("2024/resnet.onnx", "2024/resnet.onnx", "1"),
    ],
)
def test_the_version_of_a_model_is_the_number_of_its_directory(
    file: str, path: str, version: str, tmp_path: Path
) -> None:
    saved(dense(), tmp_path / file)
    assert version_of(tmp_path / path, find(tmp_path / path)) == version


@pytest.mark.parametrize("file", ["model.onnx", "1/model.onnx", "iris/1/model.onnx", "net.onnx"])
def test_a_volume_that_kubernetes_has_mounted_holds_one_model(file: str, tmp_path: Path) -> None:
    saved_with_external_data(dense(), tmp_path / "..2026_01_01" / file)
    (tmp_path / "..data").symlink_to("..2026_01_01")
    top = file.split("/", maxsplit=1)[0]
    (tmp_path / top).symlink_to(f"..data/{top}")
    if top == file:
        (tmp_path / "weights.bin").symlink_to("..data/weights.bin")
    assert OnnxRuntime().load_model(tmp_path, "iris").info.batchable
    assert find(tmp_path) == tmp_path / file


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        (["a/b.txt"], "a", "directory 'a' contains no .onnx file, no VERSION/model.onnx"),
        (["a/b/c/d/model.onnx"], "a", "directory 'a' contains no .onnx file"),
        (
            ["a/b.onnx", "a/c.onnx"],
            "a",
            "contains several .onnx files: b.onnx, c.onnx; name one of them",
        ),
        (["a/b/model.onnx", "a/c/1/model.onnx"], "a", "contains several models: b, c; name one of them, as in b=a/b"),
        (["a/1/model.onnx", "a/2/other.txt"], "a", "version 2, the highest of model 'a', has no model.onnx"),
        (["a.pt2"], "a.pt2", "'a.pt2' is not an ONNX model: expected a .onnx file"),
        (["a/model.onnx/other"], "a", "model file 'model.onnx' does not exist"),
        ([], "a.onnx", "model file 'a.onnx' does not exist"),
    ],
)
def test_a_path_that_means_no_model_file_is_refused(files: list[str], path: str, words: str, tmp_path: Path) -> None:
    for file in files:
        saved(dense(), tmp_path / file)
    with pytest.raises(InvalidModelError, match=words):
        find(tmp_path / path)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    saved(dense(), tmp_path / "elsewhere.onnx")
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1" / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(InvalidModelError, match=r"1/model.onnx of model 'a' is a link that points out"):
        find(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"this is no protocol buffer", "'a.onnx' is not an ONNX model, or is cut off: its 26 bytes do not parse"),
        (dense().SerializeToString()[:-100], "cut off"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    ],
)
def test_a_file_that_is_not_a_model_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(InvalidModelError, match=words):
        read(tmp_path / "a.onnx")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_: Path) -> bytearray:
        raise PermissionError(13, "Permission denied")

    file = saved(dense(), tmp_path / "a.onnx")
    monkeypatch.setattr("clockwork.runtimes.onnx.files.read_file", unreadable)
    with pytest.raises(InvalidModelError, match=r"'a.onnx' cannot be read: Permission denied"):
        read(file)


def test_a_file_beyond_the_limit_of_protobuf_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.onnx").open("wb") as file:
        file.truncate((1 << 31) + 1)
    with pytest.raises(InvalidModelError, match="save the model with external data"):
        read(tmp_path / "a.onnx")


def test_an_input_without_rank_is_refused(tmp_path: Path) -> None:
    file = saved(model([node("Relu", "x", "y")], [value("x", None)], [value("y", None)]), tmp_path / "a.onnx")
    with pytest.raises(InvalidModelError, match=r"input 'x' of 'a.onnx' has no declared number of dimensions"):
        read(file)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    assert read(file).digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_external_data_is_part_of_the_digest(tmp_path: Path) -> None:
    first = saved_with_external_data(dense(), tmp_path / "a" / "model.onnx")
    second = saved_with_external_data(dense(), tmp_path / "b" / "model.onnx")
    assert read(first).digest == read(second).digest
    data = tmp_path / "b" / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    assert first.read_bytes() == second.read_bytes()
    assert read(first).digest != read(second).digest


def test_external_data_in_a_subdirectory_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = saved_with_external_data(dense(), tmp_path / "model.onnx", "data/weights.bin")
    assert len(read(file).digest) == 64


@pytest.mark.parametrize("location", ["../weights.bin", "b/../../weights.bin", "LINK", "ABSOLUTE"])
def test_external_data_outside_the_directory_is_refused_even_if_it_exists(location: str, tmp_path: Path) -> None:
    file = saved_with_external_data(dense(), tmp_path / "a" / "model.onnx")
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "a" / "LINK").symlink_to(tmp_path / "weights.bin")
    proto = onnx.load_model(file, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(tmp_path / "weights.bin") if location == "ABSOLUTE" else location
    file.write_bytes(proto.SerializeToString())
    for load in (read, OnnxRuntime().load_model):
        with pytest.raises(InvalidModelError, match="lies outside the model's directory"):
            load(file)


def test_external_data_of_subgraphs_and_functions_is_checked(tmp_path: Path) -> None:
    escaping = onnx.TensorProto(name="w", data_type=FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    escaping.external_data.add(key="location", value="../w")
    constant = node("Constant", "", "w", value=escaping)
    branch = onnx.helper.make_graph([constant], "branch", [], [value("w", [1])])
    in_subgraph = model(
        [node("If", "c", "y", then_branch=branch, else_branch=branch)], [value("c", [], 9)], [value("y", [1])]
    )
    in_function = dense()
    in_function.functions.add(name="f", domain="d", output=["w"]).node.append(constant)
    for i, proto in enumerate((in_subgraph, in_function)):
        file = tmp_path / f"{i}.onnx"
        file.write_bytes(proto.SerializeToString())
        with pytest.raises(InvalidModelError, match=r"external data '../w'"):
            read(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("gone", "'weights.bin' of 'model.onnx' is missing: copy it beside the model"),
        ("short", "'weights.bin' of 'model.onnx' is cut off: it has 4735 bytes, but needs 4736"),
    ],
)
def test_missing_or_truncated_external_data_is_refused(change: str, words: str, tmp_path: Path) -> None:
    file = saved_with_external_data(dense(), tmp_path / "model.onnx")
    data = tmp_path / "weights.bin"
    content = data.read_bytes()
    data.unlink()
    if change == "short":
        data.write_bytes(content[:-1])
    with pytest.raises(InvalidModelError, match=words):
        read(file)


@pytest.mark.parametrize("entries", [{}, {"location": "w", "offset": "-1"}, {"location": "w", "length": "many"}])
def test_an_invalid_external_data_entry_is_refused(entries: dict[str, str], tmp_path: Path) -> None:
    proto = dense()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidModelError, match="have an invalid external data entry"):
        read(tmp_path / "a.onnx")


@pytest.mark.parametrize("where", ["graph", "branch"])
def test_a_model_that_keeps_state_between_requests_is_refused(where: str, tmp_path: Path) -> None:
    """In training mode, BatchNormalization writes the running mean back into the session."""
    norm = node("BatchNormalization", "x w w w w", "y m v", training_mode=1, name="norm")
    weights: dict[str, Any] = {"w": np.ones(4, np.float32)}
    if where == "branch":
        inner = helper.make_graph([norm], "inner", [], [value("y", None)])
        norm = node("If", "yes", "y", then_branch=inner, else_branch=inner)
        weights["yes"] = np.array(True)
    proto = model([norm], [value("x", ("N", 4))], [value("y", ("N", 4))], **weights)
    with pytest.raises(InvalidModelError, match="BatchNormalization 'norm' in training mode, which keeps state"):
        read(saved(proto, tmp_path / "m.onnx"))
