"""The files of a model that the controller sends, and the list that describes them."""

import hashlib
import os
from pathlib import Path

import msgspec
import onnx
import pytest
from msgspec.structs import replace

import clockwork.repository.model_files as model_files
from clockwork.errors import InvalidModelError
from clockwork.messages.files import PART_BYTES, FileEntry, FileList
from clockwork.repository.model_files import ModelFiles, decode_list, encode_list, find_files
from clockwork.runtimes.links import NO_LINKS
from onnx_graphs import dense, saved, saved_with_external_data


def found(root: Path, path: str, name: str = "") -> ModelFiles:
    return find_files(root, path, name, NO_LINKS)


def paths(files: ModelFiles) -> list[str]:
    return [file.path for file in files.files.files]


def test_a_file_is_described_by_its_size_and_the_hash_of_each_part(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1024 * 2 + b"rest"
    (tmp_path / "m.onnx").write_bytes(content)
    files = found(tmp_path, "m.onnx")
    (entry,) = files.files.files
    parts = [content[:PART_BYTES], content[PART_BYTES : 2 * PART_BYTES], content[2 * PART_BYTES :]]
    assert (entry.path, entry.size, entry.parts) == ("m.onnx", len(content), 3)
    assert [entry.part_size(part) for part in range(3)] == [len(part) for part in parts]
    assert [entry.digest(part) for part in range(3)] == [hashlib.sha256(part).digest() for part in parts]
    assert decode_list(files.encoded, files.content) == files.files


def test_an_empty_file_has_no_part(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert found(tmp_path, "m.onnx").files.files == (FileEntry("m.onnx", 0, b""),)


def test_external_data_is_found_wherever_its_name_is_in_the_file(tmp_path: Path) -> None:
    saved_with_external_data(dense(), tmp_path / "nets" / "a.onnx", "deep.bin")
    assert paths(found(tmp_path, "nets/a.onnx")) == ["nets/a.onnx", "nets/deep.bin"]
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL, name="w")
    tensor.external_data.add(key="location", value="weights/of the model.bin")
    needle = tensor.SerializeToString()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "of the model.bin").write_bytes(b"w")
    for before in (0, 1, PART_BYTES - len(needle) - 1, PART_BYTES - 20, PART_BYTES - 3, PART_BYTES, 2 * PART_BYTES - 9):
        (tmp_path / "b.onnx").write_bytes(bytes(before) + needle + bytes(5))
        assert paths(found(tmp_path, "b.onnx")) == ["b.onnx", "weights/of the model.bin"], before


def test_names_that_are_no_files_beside_the_model_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    parts = []
    for value in ("../secret", str(tmp_path / "secret"), "nothing", "", "m.onnx", "\0"):
        tensor = onnx.TensorProto()
        tensor.external_data.add(key="location", value=value)
        parts.append(tensor.SerializeToString())
    (tmp_path / "root" / "m.onnx").write_bytes(b"".join(parts) + b"\n\x08location\x12\x7fcut off")
    assert paths(found(tmp_path / "root", "m.onnx")) == ["m.onnx"]


def test_a_model_of_a_repository_is_sent_with_its_configuration_and_only_in_the_chosen_version(tmp_path: Path) -> None:
    for version in ("1", "2"):
        saved(dense(int(version)), tmp_path / "net" / version / "model.onnx")
    (tmp_path / "net" / "config.pbtxt").write_text("max_batch_size: 4\n")
    (tmp_path / "net" / "warmup").mkdir()
    (tmp_path / "net" / "warmup" / "raw").write_bytes(b"1234")
    (tmp_path / "net" / "2" / "model.example.json").write_text("{}")
    (tmp_path / "net" / "README.md").write_text("not read by a runtime")
    beside = ["net/config.pbtxt", "net/warmup/raw"]
    assert paths(found(tmp_path, "net")) == ["net/2/model.example.json", "net/2/model.onnx", *beside]
    assert paths(found(tmp_path, "net/1")) == ["net/1/model.onnx", *beside]
    assert paths(found(tmp_path, "net/1/model.onnx")) == ["net/1/model.onnx", *beside]


def test_one_of_several_models_of_a_directory_is_sent_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(dense(), tmp_path / "nets" / f"{name}.onnx")
    assert paths(found(tmp_path, "nets", "b")) == ["nets/b.onnx"]


def test_a_pytorch_program_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"PK\n\x08location\x12\x04x.bn")
    (tmp_path / "x.bn").touch()
    assert paths(found(tmp_path, "m.pt2")) == ["m.pt2"]


@pytest.mark.parametrize("path", ["nothing.onnx", "../m.onnx", "/etc/passwd", "m.txt", "link.onnx"])
def test_a_path_that_is_no_model_below_the_root_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "m.txt").touch()
    (tmp_path / "m.onnx").touch()
    (tmp_path / "root" / "link.onnx").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(InvalidModelError):
        found(tmp_path / "root", path)


def test_a_file_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    saved(dense(), tmp_path / "net" / "1" / "model.onnx")
    (tmp_path / "net" / "config.pbtxt").touch()
    (tmp_path / "net" / "warmup").mkdir()
    (tmp_path / "net" / "warmup" / os.fsdecode(b"raw\xff")).touch()
    with pytest.raises(InvalidModelError, match=r"'raw\\udcff' of model 'net' is not UTF-8: rename the file"):
        found(tmp_path, "net")


def test_equal_files_have_the_same_content_and_a_change_is_noticed(tmp_path: Path) -> None:
    for place in ("a", "b"):
        saved(dense(), tmp_path / place / "m.onnx")
    first, second = found(tmp_path / "a", "m.onnx"), found(tmp_path / "b", "m.onnx")
    assert first.content == second.content
    assert find_files(tmp_path / "a", "m.onnx", "", NO_LINKS, earlier=first) == first
    saved(dense(1), tmp_path / "a" / "m.onnx")
    changed = find_files(tmp_path / "a", "m.onnx", "", NO_LINKS, earlier=first)
    assert changed == found(tmp_path / "a", "m.onnx")
    assert changed.content != first.content


def test_a_change_that_keeps_the_size_and_the_time_of_a_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"before")
    os.utime(file, ns=(1, 1))
    first = found(tmp_path, "m.onnx")
    file.write_bytes(b"behind")
    while file.stat().st_ctime_ns == first.sources[0].changed:  # the kernel's clock for files advances every few ms
        os.utime(file, ns=(1, 1))
    os.utime(file, ns=(1, 1))
    assert find_files(tmp_path, "m.onnx", "", NO_LINKS, earlier=first).content != first.content


def test_models_beyond_the_limits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_with_external_data(dense(), tmp_path / "m.onnx")
    monkeypatch.setattr(model_files, "MAX_FILES", 1)
    with pytest.raises(InvalidModelError, match="more than 1 files, which is the limit"):
        found(tmp_path, "m.onnx")
    monkeypatch.setattr(model_files, "MAX_FILES", 2)
    monkeypatch.setattr(model_files, "MAX_MODEL_BYTES", 10)
    with pytest.raises(InvalidModelError, match="has more than 10 B, which is the limit"):
        found(tmp_path, "m.onnx")


ENTRY = FileEntry("m.onnx", 3, bytes(32))


@pytest.mark.parametrize(
    "entries",
    [
        (replace(ENTRY, path="/m.onnx"),),
        (replace(ENTRY, path="../m.onnx"),),
        (replace(ENTRY, path="a/../../m.onnx"),),
        (replace(ENTRY, path=""),),
        (replace(ENTRY, path="a\0b"),),
        (replace(ENTRY, digests=bytes(31)),),
        (replace(ENTRY, digests=bytes(64)),),
        (replace(ENTRY, size=-1, digests=b""),),
        (ENTRY, ENTRY),
        (ENTRY, replace(ENTRY, path="./m.onnx")),
    ],
)
def test_a_list_with_a_wrong_entry_is_refused(entries: tuple[FileEntry, ...]) -> None:
    content, encoded = encode_list(FileList(entries))
    with pytest.raises(InvalidModelError, match="has an invalid entry"):
        decode_list(encoded, content)


def test_a_list_that_does_not_match_its_hash_or_is_unreadable_is_refused() -> None:
    content, encoded = encode_list(FileList((ENTRY,)))
    with pytest.raises(InvalidModelError, match="does not match its hash"):
        decode_list(encoded + b"\0", content)
    other = msgspec.msgpack.encode({"files": 1})
    with pytest.raises(InvalidModelError, match="cannot be read"):
        decode_list(other, hashlib.sha256(other).hexdigest())
