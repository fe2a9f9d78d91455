"""Inputs that the model accepts: those that the operator gives, and those that are tried otherwise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from clockwork.errors import InvalidModelError
from clockwork.messages.actions import InferInput
from clockwork.messages.results import ExampleInputs
from clockwork.messages.tensors import TensorSpec
from clockwork.runtimes.batching import batching_options
from clockwork.runtimes.examples import AREAS, SENSIBLE, SIZES
from clockwork.runtimes.given import MAX_FILE
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.model import OnnxModel
from onnx_graphs import echo, model, node, saved, value

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def flattened(*sizes: int, dims: tuple[str | int, ...] = ("N", 3, "h", "w")) -> Any:
    """Return a model that declares free dimensions, and accepts only those whose product is that of the sizes."""
    weights = np.random.default_rng(0).random((int(np.prod(sizes)), 4), np.float32)
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w", "y")]
    return model(nodes, [value("x", dims)], [value("y", ["N", 4])], w=weights)


def parsing() -> Any:
    """Return a model whose input is text that must be a number."""
    return model([node("Cast", "x", "y", to=FLOAT)], [value("x", ["N", 1], STRING)], [value("y", ["N", 1])])


def picky() -> Any:
    """Return a model that accepts the texts 2 to 7 only: it looks up a row of a table."""
    nodes = [node("Cast", "x", "n", to=INT64), node("Sub", "n five", "i"), node("Gather", "table i", "y")]
    weights: dict[str, Any] = {"five": np.array([5]), "table": np.arange(12, dtype=np.float32).reshape(3, 4)}
    return model(nodes, [value("x", [1], STRING)], [value("y", [1, 4])], **weights)


def load(proto: Any, directory: Path, *shapes: str, cache: Path | None = None) -> OnnxModel:
    """Load a model called ``m``."""
    runtime = OnnxRuntime(cache_dir=cache, batching=batching_options(None, None, shapes))
    return runtime.load_model(saved(proto, directory / "m.onnx"), "m")


def example(loaded: OnnxModel) -> ExampleInputs:
    assert loaded.info.example is not None
    return loaded.info.example


def generated(loaded: OnnxModel, *shapes: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    """Execute the model on generated inputs of these shapes."""
    weights = loaded.load_weights(0)
    specs = tuple(
        TensorSpec(info.name, info.datatype, shape, 0) for info, shape in zip(loaded.info.inputs, shapes, strict=True)
    )
    rows = shapes[0][0] if loaded.info.batchable else 1
    return weights.execute(weights.assemble((InferInput(0, rows, specs, generated=True),), (None,)))


def write_example(directory: Path, *inputs: dict[str, Any]) -> None:
    (directory / "m.example.json").write_text(json.dumps({"inputs": inputs}))


# --- what is tried ---------------------------------------------------------------------------------------------------


def test_the_first_size_that_is_tried_is_128(tmp_path: Path) -> None:
    found = example(load(echo(FLOAT, ("N", "length")), tmp_path))
    assert found == ExampleInputs(((1, 128),), SENSIBLE)


@pytest.mark.parametrize("size", [224, 16, 28])
def test_common_sizes_of_images_are_tried(size: int, tmp_path: Path) -> None:
    assert example(load(flattened(3, size, size), tmp_path)).shapes == ((1, 3, size, size),)


@pytest.mark.parametrize("area", AREAS)
def test_common_areas_that_are_not_square_are_tried(area: tuple[int, int], tmp_path: Path) -> None:
    assert example(load(flattened(3, *area), tmp_path)).shapes == ((1, 3, *area),)


@pytest.mark.parametrize("length", [77, 3000, 16000, 1])
def test_common_numbers_of_tokens_and_of_audio_samples_are_tried(length: int, tmp_path: Path) -> None:
    assert example(load(flattened(length, dims=("N", "length")), tmp_path)).shapes == ((1, length),)


def test_the_number_of_channels_follows_from_a_convolution(tmp_path: Path) -> None:
    proto = model(
        [node("Cast", "x", "f", to=FLOAT), node("Conv", "f w", "y")],
        [value("x", ["N", "c", "h", "w"], TensorProto.UINT8)],
        [value("y", ["N", 2, None, None])],
        w=np.zeros((2, 5, 3, 3), np.float32),
    )
    assert example(load(proto, tmp_path)).shapes == ((1, 5, 128, 128),)


def test_the_number_of_features_follows_from_a_product(tmp_path: Path) -> None:
    assert example(load(flattened(7777, dims=("N", "features")), tmp_path)).shapes == ()
    proto = model(
        [node("MatMul", "x w", "y")],
        [value("x", ["N", "features"])],
        [value("y", ["N", 3])],
        w=np.ones((7777, 3), np.float32),
    )
    found = load(proto, tmp_path / "product")
    assert example(found).shapes == ((1, 7777),)
    assert found.info.batchable


def test_a_first_dimension_that_must_be_1_is_tried_with_the_others(tmp_path: Path) -> None:
    nodes = [node("Squeeze", "x axes", "s"), node("MatMul", "s w", "y")]
    weights: dict[str, Any] = {"axes": np.array([0]), "w": np.ones((64, 3), np.float32)}
    proto = model(nodes, [value("x", ["one", "length"])], [value("y", [3])], **weights)
    assert example(load(proto, tmp_path)).shapes == ((1, 64),)


def test_texts_that_must_be_numbers_are_tried(tmp_path: Path) -> None:
    loaded = load(parsing(), tmp_path)
    assert example(loaded).shapes == ((1, 1),)
    assert loaded.info.batchable
    assert generated(loaded, (3, 1))[0].shape == (3, 1)


def test_the_search_is_short_and_reports_what_was_refused(tmp_path: Path) -> None:
    found = example(load(flattened(7, 11), tmp_path))
    assert found.shapes == ()
    first = "x FP32[1,3,128,128]: the model rejects these inputs"
    assert f"none of the inputs that were tried; the first was refused: {first}" in found.unmeasured
    assert found.refused[0].startswith(first)
    tried = len(SIZES) - 2 + len(AREAS) + 1  # images of 3000 x 3000 and 16000 x 16000 are too large
    assert found.refused[-1] == f"{tried - len(found.refused) + 1} more"


# --- what the operator gives -----------------------------------------------------------------------------------------


def test_an_example_shape_from_the_option_comes_first(tmp_path: Path) -> None:
    loaded = load(echo(FLOAT, ("N", 3, "h", "w")), tmp_path, "other:x=1x2x3", "m:x=3x40x52")
    assert example(loaded) == ExampleInputs(((1, 3, 40, 52),), "--model-shape")


def test_a_model_is_batched_and_used_in_place_if_only_the_given_shape_fits(tmp_path: Path) -> None:
    assert not load(flattened(3, 40, 52), tmp_path).info.batchable
    loaded = load(flattened(3, 40, 52), tmp_path, "m:x=3x40x52")
    assert loaded.info.batchable
    assert loaded.in_place


def test_the_batch_dimension_of_a_given_shape_may_be_left_out(tmp_path: Path) -> None:
    for shape in ("3x40x52", "1x3x40x52", "8x3x40x52"):
        assert example(load(echo(FLOAT, ("N", 3, "h", "w")), tmp_path, f"m:x={shape}")).shapes == ((1, 3, 40, 52),)


def test_inputs_that_are_not_given_get_common_sizes(tmp_path: Path) -> None:
    inputs = [value("x", ["N", "a"]), value("z", ["N", "b"])]
    proto = model([node("Concat", "x z", "y", axis=1)], inputs, [value("y", ["N", "c"])])
    assert example(load(proto, tmp_path, "m:z=5")).shapes == ((1, 128), (1, 5))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("m:z=3x40x52", "--model-shape gives an input 'z', which the model lacks; it has x"),
        ("m:x=4x40x52", "--model-shape gives input 'x' the shape [4, 40, 52]; the model takes x FP32[-1,3,-1,-1]"),
        ("m:x=40x52", "--model-shape gives input 'x' the shape [40, 52]; the model takes x FP32[-1,3,-1,-1]"),
    ],
)
def test_a_given_shape_that_does_not_fit_is_an_error(shape: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError) as failure:
        load(echo(FLOAT, ("N", 3, "h", "w")), tmp_path, shape)
    assert str(failure.value) == message


def test_a_file_beside_the_model_gives_shapes_and_data(tmp_path: Path) -> None:
    assert example(load(picky(), tmp_path)).unmeasured
    write_example(tmp_path, {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["3"]})
    loaded = load(picky(), tmp_path)
    assert example(loaded) == ExampleInputs(((1,),), "m.example.json")
    assert generated(loaded, (1,))[0].tolist() == [[4, 5, 6, 7]]


def test_data_of_an_example_survive_a_restart_with_prepared_models(tmp_path: Path) -> None:
    write_example(tmp_path, {"name": "x", "shape": [1], "data": ["3"]})
    for _ in range(2):
        loaded = load(picky(), tmp_path, cache=tmp_path / "cache")
        assert generated(loaded, (1,))[0].tolist() == [[4, 5, 6, 7]]
    (tmp_path / "m.example.json").unlink()
    assert example(load(picky(), tmp_path, cache=tmp_path / "cache")).unmeasured


def test_measured_times_belong_to_the_example(tmp_path: Path) -> None:
    digests = {load(echo(FLOAT, ("N", "a")), tmp_path, *shapes).info.digest for shapes in ((), ("m:x=3",), ("m:x=4",))}
    assert len(digests) == 3


def test_nested_data_and_rows_of_an_example_are_repeated(tmp_path: Path) -> None:
    write_example(tmp_path, {"name": "x", "shape": [2, 2], "data": [[[1, 2], [3, 4]]]})
    loaded = load(echo(INT64, ("N", 2, 2)), tmp_path)
    (output,) = generated(loaded, (3, 2, 2))
    assert output.tolist() == [[[1, 2], [3, 4]]] * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "'m.example.json' does not describe inputs: Expected `object`, got `array`"),
        ('{"inputs": [{"name": "x", "shape": [-1]}]}', "a shape has at most 16 dimensions, each from 0 to 268435456"),
        (
            '{"inputs": [{"name": "x", "shape": [3], "data": [1, 2]}]}',
            "the elements that m.example.json gives input 'x' do not make INT64[1, 3]: cannot reshape array",
        ),
        (
            '{"inputs": [{"name": "x", "shape": [1], "data": ["a"]}]}',
            "the elements that m.example.json gives input 'x' do not make INT64[1, 1]: invalid literal",
        ),
    ],
)
def test_a_file_with_a_wrong_example_is_an_error(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.example.json").write_text(content)
    with pytest.raises(InvalidModelError) as failure:
        load(echo(INT64, ("N", "a")), tmp_path)
    assert message in str(failure.value)


def test_an_example_that_leads_out_of_the_models_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.example.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidModelError, match=r"'m\.example\.json' is a link that points out of"):
        load(picky(), tmp_path / "models")


def test_a_file_with_an_example_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "m.example.json").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(InvalidModelError, match="longer than 67108864 bytes"):
        load(picky(), tmp_path)


# --- model_warmup ----------------------------------------------------------------------------------------------------


def repository(directory: Path, proto: Any, config: str, **files: bytes) -> ExampleInputs:
    """Load a model of a repository, with files in its directory ``warmup``."""
    saved(proto, directory / "ocr" / "1" / "model.onnx")
    (directory / "ocr" / "config.pbtxt").write_text(config)
    for name, content in files.items():
        (directory / "ocr" / "warmup").mkdir(exist_ok=True)
        (directory / "ocr" / "warmup" / name).write_bytes(content)
    return example(OnnxRuntime().load_model(directory / "ocr", "ocr"))


def warmup(value: str, name: str = "x") -> str:
    return f'model_warmup [ {{ name: "w" batch_size: 1 inputs {{ key: "{name}" value {{ {value} }} }} }} ]'


@pytest.mark.parametrize("kind", ["zero_data: true", "random_data: true"])
def test_model_warmup_gives_shapes(kind: str, tmp_path: Path) -> None:
    config = "max_batch_size: 8 " + warmup(f"data_type: TYPE_FP32 dims: [3, 40, 52] {kind}")
    found = repository(tmp_path, flattened(3, 40, 52), config)
    assert found == ExampleInputs(((1, 3, 40, 52),), "model_warmup in config.pbtxt")


def test_model_warmup_gives_data_of_a_file(tmp_path: Path) -> None:
    config = warmup('data_type: TYPE_STRING dims: [1] input_data_file: "three"')
    found = repository(tmp_path, picky(), config, three=b"\x01\0\0\0" + b"3")
    assert found == ExampleInputs(((1,),), "model_warmup in config.pbtxt")


@pytest.mark.parametrize(
    "value",
    [
        'data_type: TYPE_STRING dims: [1] input_data_file: "../../secret"',
        'data_type: TYPE_STRING dims: [1] input_data_file: "missing"',
        'data_type: TYPE_STRING dims: [1] input_data_file: "cut"',
        "data_type: TYPE_STRING dims: [1, 2, 3] zero_data: true",
        "data_type: TYPE_STRING dims: [-5] zero_data: true",
    ],
)
def test_a_warmup_that_cannot_be_used_is_ignored(value: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\x01\0\0\0" + b"3")
    found = repository(tmp_path, parsing(), warmup(value), cut=b"\x09\0\0\0")
    assert found.source == SENSIBLE
    found = repository(tmp_path / "other", parsing(), warmup("dims: [1] zero_data: true", name="unknown"))
    assert (found.source, found.shapes) == (SENSIBLE, ((1, 1),))
    assert "model_warmup in config.pbtxt gives an input 'unknown'" in found.refused[0]
