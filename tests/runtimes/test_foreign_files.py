"""Files that are no models, and models that ONNX Runtime refuses, are reported with what they are and why."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from clockwork.errors import InvalidModelError
from clockwork.runtimes.foreign_files import HEAD_BYTES, recognise
from clockwork.runtimes.onnx import OnnxRuntime
from onnx_graphs import dense, saved, saved_with_external_data

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 102400\n"


def archived(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("model.onnx")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", content)
    return buffer.getvalue()


MODEL = dense().SerializeToString()
FOREIGN = {
    "is a Git LFS pointer": POINTER,
    "is an HTML page": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><title>Not Found</title></html>",
    "is an XML document": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "is a JSON document": b'{"message": "Not Found"}',
    "is compressed with gzip": gzip.compress(MODEL),
    "is a zip archive": zipped(MODEL),
    "is a tar archive": archived(MODEL),
    "is a Python pickle": b"\x80\x04\x95" + bytes(20),
    "is a TensorFlow Lite model": b"\x1c\x00\x00\x00TFL3" + bytes(20),
    "is empty": b"",
}


@pytest.mark.parametrize("words", FOREIGN)
def test_a_file_of_another_kind_is_recognised_and_named(words: str, tmp_path: Path) -> None:
    assert words in recognise(FOREIGN[words][:HEAD_BYTES])
    file = tmp_path / "model.onnx"
    file.write_bytes(FOREIGN[words])
    with pytest.raises(InvalidModelError, match=f"^'model.onnx' {words}"):
        OnnxRuntime().load_model(file)


def test_external_data_that_was_not_fetched_is_recognised(tmp_path: Path) -> None:
    file = saved_with_external_data(dense(), tmp_path / "model.onnx")
    (tmp_path / "weights.bin").write_bytes(POINTER)
    with pytest.raises(InvalidModelError, match=r"external data 'weights.bin' of 'model.onnx' is a Git LFS pointer"):
        OnnxRuntime().load_model(file)


def test_a_model_is_not_recognised_as_another_kind_of_file() -> None:
    assert recognise(MODEL[:HEAD_BYTES]) == ""


NAMES = ["plain.onnx", "two words.onnx", "new\nline.onnx", "%s{0}.onnx", "a [b] failed: c.onnx", "\udcff\udcfe.onnx"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [b"w1", b"\xff1"])
def test_the_reason_of_onnx_runtime_is_reported_whatever_the_names_are(
    name: str, weights: bytes, tmp_path: Path
) -> None:
    proto = dense()
    proto.graph.node[1].op_type = "NoSuchOperator"
    directory = tmp_path / "a directory"
    directory.mkdir()
    file = directory / name
    with open(os.fsencode(file), "wb") as target:  # noqa: PTH123 - the name is no text
        target.write(proto.SerializeToString().replace(b"w1", weights))
    with pytest.raises(InvalidModelError) as caught:
        OnnxRuntime().load_model(file)
    message = str(caught.value)
    assert "No Op registered for NoSuchOperator" in message
    assert "directory" not in message, "paths of the server are not shown to clients"


def test_a_model_loads_whatever_bytes_its_path_has(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"\xff directory")
    file = saved_with_external_data(dense(), tmp_path / "model.onnx")
    directory.mkdir()
    for part in (file, tmp_path / "weights.bin"):
        part.rename(directory / part.name)
    assert OnnxRuntime().load_model(directory / "model.onnx").info.batchable
    other = saved(dense(), tmp_path / "other.onnx").rename(directory / os.fsdecode(b"\xfe.onnx"))
    assert OnnxRuntime().load_model(other).info.batchable


def test_an_input_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(dense().SerializeToString().replace(b"\x01x", b"\x01\xff"))
    with pytest.raises(InvalidModelError, match=r"the name b'.xff' of an input or output of 'model.onnx' is not UTF-8"):
        OnnxRuntime().load_model(file)
