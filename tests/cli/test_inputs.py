"""The inputs of a model, read from files."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clockwork.cli.inputs import read_inputs
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import ModelSummary
from clockwork.messages.tensors import TensorInfo


def a_model(*inputs: TensorInfo) -> ModelSummary:
    return ModelSummary("m", inputs, (), True, 1, 0)


VECTOR = a_model(TensorInfo("x", "FP32", (-1, 3)))
PAIR = a_model(TensorInfo("ids", "INT32", (-1, 2)), TensorInfo("text", "BYTES", (-1,)))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(name: str, content: Any) -> str:
    if isinstance(content, np.ndarray):
        np.save(name, content)
    else:
        Path(name).write_text(json.dumps(content))
    return name


@pytest.mark.parametrize(
    ("prefix", "name", "content"),
    [
        ("", "v.json", [1, 2, 3]),
        ("x=", "v.json", [1, 2, 3]),
        ("", "v.json", [[1, 2, 3]]),
        ("", "v.json", {"x": [1, 2, 3]}),
        ("", "v.json", {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}),
        ("", "v.npy", np.array([1, 2, 3], np.int64)),
        ("x=", "v.npy", np.array([[1, 2, 3]], np.float64)),
        ("", "v=1.npy", np.array([[1, 2, 3]], np.float32)),
    ],
)
def test_numbers_are_converted_to_the_type_of_the_input(prefix: str, name: str, content: Any) -> None:
    (array,) = read_inputs(VECTOR, [prefix + saved(name, content)]).values()
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2, 3]]


def test_several_inputs_come_from_several_files_or_one() -> None:
    ids, text = saved("ids.npy", np.array([[7, 8]])), saved("text.json", ["hello"])
    both = saved("both.json", {"ids": [[7, 8]], "text": ["hello"]})
    for files in ([f"ids={ids}", f"text={text}"], [both]):
        arrays = read_inputs(PAIR, files)
        assert arrays["ids"].tolist() == [[7, 8]]
        assert arrays["ids"].dtype == np.int32
        assert arrays["text"].tolist() == ["hello"]


@pytest.mark.parametrize(
    ("model", "files", "message"),
    [
        (VECTOR, ["nowhere.npy"], "cannot read nowhere.npy: No such file"),
        (VECTOR, ["nowhere.json"], "cannot read nowhere.json"),
        (VECTOR, ["broken.json"], "cannot read broken.json"),
        (VECTOR, ["broken.npy"], "cannot read broken.npy"),
        (VECTOR, ["broken.png"], "broken.png is an image, which input x FP32[-1,3] cannot take"),
        (VECTOR, ["notes.txt"], "notes.txt has an unknown suffix; give a .npy, a .json or an image"),
        (VECTOR, ["ragged.json"], "ragged.json does not contain a tensor"),
        (VECTOR, ["words.json"], "words.json contains <U3; convert the file to x FP32[-1,3]"),
        (VECTOR, ["nameless.json"], "nameless.json: an input has no 'name'"),
        (VECTOR, ["y=words.json"], "input 'y' is unknown; model m takes x FP32[-1,3]"),
        (VECTOR, ["row.json", "x=row.json"], "input 'x' is given twice"),
        (
            PAIR,
            ["row.json"],
            "input of row.json is ambiguous; model m takes ids INT32[-1,2], text BYTES[-1] (write NAME=",
        ),
        (
            PAIR,
            ["text=words.json"],
            "input 'ids' is missing; model m takes ids INT32[-1,2], text BYTES[-1] (add --input",
        ),
        (PAIR, ["ids=huge.json"], "huge.json contains int64 from 0 to 4294967296; convert the file to ids INT32[-1,2]"),
        (PAIR, ["ids=halves.json"], "halves.json contains float64 from 0.5 to 1.5"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(model: ModelSummary, files: list[str], message: str) -> None:
    for name in ("broken.json", "broken.npy", "broken.png", "notes.txt"):
        Path(name).write_text("{")
    saved("ragged.json", [[1, 2], [3]])
    saved("words.json", ["one", "two"])
    saved("row.json", [1, 2, 3])
    saved("huge.json", [0, 1 << 32])
    saved("halves.json", [0.5, 1.5])
    saved("nameless.json", {"inputs": [{"shape": [1], "data": [1]}]})
    with pytest.raises(InvalidRequestError) as raised:
        read_inputs(model, files)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("datatype", "shape", "expected", "red"),
    [
        ("FP32", (-1, 3, 8, 6), (1, 3, 8, 6), 1.0),
        ("FP32", (-1, 8, 6, 3), (1, 8, 6, 3), 1.0),
        ("FP16", (1, 3, -1, -1), (1, 3, 20, 10), 1.0),
        ("UINT8", (-1, 3, 8, 6), (1, 3, 8, 6), 255),
    ],
)
def test_an_image_takes_the_models_size_layout_and_scale(
    datatype: str, shape: tuple[int, ...], expected: tuple[int, ...], red: float
) -> None:
    Image.new("RGB", (10, 20), "red").save("red.png")
    (array,) = read_inputs(a_model(TensorInfo("image", datatype, shape)), ["red.png"]).values()
    assert array.shape == expected
    channels = array[0] if expected[1] == 3 else array[0].transpose(2, 0, 1)
    assert [(channel.min(), channel.max()) for channel in channels] == [(red, red), (0, 0), (0, 0)]


def test_a_grey_image_for_a_model_of_one_channel() -> None:
    Image.new("RGB", (4, 4), "white").save("white.png")
    (array,) = read_inputs(a_model(TensorInfo("image", "FP32", (-1, 1, 2, 2))), ["white.png"]).values()
    assert array.tolist() == [[[[1, 1], [1, 1]]]]


def test_a_broken_image_is_refused() -> None:
    Path("broken.png").write_text("no image")
    with pytest.raises(InvalidRequestError, match=r"cannot read broken\.png"):
        read_inputs(a_model(TensorInfo("image", "FP32", (-1, 3, 2, 2))), ["broken.png"])


def test_without_pillow_an_image_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InvalidRequestError, match="pip install pillow"):
        read_inputs(a_model(TensorInfo("image", "FP32", (-1, 3, 2, 2))), ["red.png"])
