"""Names of models and copies, batch sizes, and the numbers of statuses."""

import pytest

from builders import tensors
from clockwork.controller.config import LoadSpec
from clockwork.controller.naming import load_spec, model_name_from_path, spec_names
from clockwork.messages.actions import Infer, InferInput, model_names
from clockwork.messages.status import Status


@pytest.mark.parametrize(("copies", "names"), [(0, ()), (1, ("m",)), (2, ("m-1", "m-2")), (3, ("m-1", "m-2", "m-3"))])
def test_copies_are_numbered_from_one_and_a_single_model_is_not_numbered(copies: int, names: tuple[str, ...]) -> None:
    assert model_names("m", copies) == names
    assert spec_names(LoadSpec("m.onnx", "m", copies)) == set(names)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("resnet50.onnx", "resnet50"),
        ("zoo/resnet50.onnx", "resnet50"),
        ("zoo/resnet50", "resnet50"),
        ("zoo//./resnet50/", "resnet50"),
        ("resnet50/1", "resnet50"),
        ("resnet50/1/model.onnx", "resnet50"),
        ("resnet50/model.onnx", "resnet50"),
        ("model.onnx", "model"),
        ("1", "1"),
        ("v1.5.onnx", "v1.5"),
        ("v1.5", "v1.5"),
        ("net.pt2", "net"),
        (".onnx", ".onnx"),
        ("/", ""),
        ("", ""),
    ],
)
def test_a_model_name_comes_from_its_path(path: str, name: str) -> None:
    assert model_name_from_path(path) == name


def test_a_given_name_replaces_the_name_from_the_path() -> None:
    assert load_spec("zoo/a.onnx", "mine", 2, 10) == LoadSpec("zoo/a.onnx", "mine", 2)
    assert load_spec("zoo/a.onnx", "", 1, 10) == LoadSpec("zoo/a.onnx", "a", 1)


def test_a_batch_has_the_rows_of_its_inputs() -> None:
    inputs = tuple(InferInput(i, rows, tensors(rows)) for i, rows in enumerate([1, 4, 2]))
    assert Infer(1, 0, "m", inputs).batch_size == 7
    assert Infer(1, 0, "m", ()).batch_size == 0


@pytest.mark.parametrize(
    ("status", "number"),
    [
        (Status.SUCCESS, 0),
        (Status.ERROR, 1),
        (Status.TIMEOUT, 4),
        (Status.INITIALIZING, 5),
        (Status.INVALID_REQUEST, 6),
        (Status.SKIPPED_BY_CONTROLLER, 7),
        (Status.CONTROLLER_COULD_NOT_START_IN_TIME, 8),
        (Status.UNKNOWN_MODEL, 10),
        (Status.INVALID_GPU, 13),
        (Status.WEIGHTS_NOT_PRESENT, 20),
        (Status.WEIGHTS_CHANGED, 23),
        (Status.INVALID_INPUT, 30),
        (Status.INVALID_BATCH_SIZE, 31),
        (Status.INVALID_MODEL_NAME, 40),
        (Status.INVALID_MODEL_PATH, 41),
        (Status.LOAD_WEIGHTS_TOO_EARLY, 50),
        (Status.LOAD_WEIGHTS_CONCURRENT_MODIFICATION, 54),
        (Status.EVICT_WEIGHTS_TOO_EARLY, 60),
        (Status.EVICT_WEIGHTS_NOT_IN_CACHE, 63),
        (Status.COPY_INPUT_TOO_EARLY, 70),
        (Status.COPY_INPUT_BAD_DECOMPRESS, 78),
        (Status.EXEC_TOO_EARLY, 80),
        (Status.EXEC_CONCURRENT_WEIGHTS_MODIFICATION, 84),
        (Status.COPY_OUTPUT_TOO_EARLY, 90),
        (Status.COPY_OUTPUT_HOST_ALLOC, 92),
    ],
)
def test_statuses_have_the_numbers_of_the_original(status: Status, number: int) -> None:
    assert status == number
