"""Outputs of a live request and of its copy are compared by datatype."""

from typing import Any

import numpy as np
import pytest

from clockwork.arrays import to_payload
from clockwork.controller.events import CompareShadow, ShadowCompared
from clockwork.host.output_comparison import compare_now
from clockwork.messages.shadows import OutputComparison
from clockwork.messages.tensors import TensorSpec

NAN, INF = float("nan"), float("inf")


def packed(outputs: dict[str, Any]) -> tuple[tuple[TensorSpec, ...], bytes]:
    specs, parts = [], []
    for name, array in outputs.items():
        datatype, shape, payload = to_payload(array)
        parts.append(bytes(payload))
        specs.append(TensorSpec(name, datatype, shape, len(parts[-1])))
    return tuple(specs), b"".join(parts)


def compared(live: dict[str, Any], copy: dict[str, Any]) -> ShadowCompared:
    answer = compare_now(CompareShadow(7, *packed(live), *packed(copy)))
    assert isinstance(answer, ShadowCompared)
    assert answer.check_id == 7
    return answer


def floats(*rows: list[float], dtype: Any = np.float32) -> Any:
    return np.array(rows, dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_compared_by_their_largest_difference_and_the_place_of_the_largest_element(dtype: Any) -> None:
    live = floats([1, 2, 3], [5, 4, 0], [1, 0, 0], dtype=dtype)
    copy = floats([1, 2.5, 3], [4.75, 5, 0], [1, 0, 0], dtype=dtype)
    answer = compared({"y": live}, {"y": copy})
    (output,) = answer.outputs
    assert (output.compared, output.equal, output.max_difference, output.rows, output.rows_agreed) == (1, 0, 1.0, 3, 2)
    assert answer.mismatches == {"argmax": "output 'y': the largest element of 1 of 3 rows is at another place"}


def test_equal_floats_are_equal_even_if_they_are_not_numbers() -> None:
    array = floats([NAN, INF, -INF, 1])
    answer = compared({"y": array}, {"y": array})
    assert answer == ShadowCompared(7, (OutputComparison("y", "FP32", 1, 1, 0.0, 1, 1),))


@pytest.mark.parametrize("copy", [[1.0, NAN], [1.0, INF], [NAN, 2.0]])
def test_infinities_and_nans_in_different_places_are_a_mismatch(copy: list[float]) -> None:
    answer = compared({"y": floats([1.0, 2.0])}, {"y": floats(copy)})
    assert answer.mismatches == {"non_finite": "output 'y': infinities or NaNs are in different places"}
    assert answer.outputs[0].equal == 0
    assert answer.outputs[0].max_difference == 0


def test_the_largest_difference_is_finite() -> None:
    most = np.finfo(np.float64).max
    answer = compared({"y": floats([most], dtype=np.float64)}, {"y": floats([-most], dtype=np.float64)})
    assert answer.outputs[0].max_difference == most


@pytest.mark.parametrize(
    ("live", "copy", "datatype", "differing"),
    [
        (np.array([1, 2, 3]), np.array([1, 5, 4]), "INT64", 2),
        (np.array([True, False]), np.array([True, True]), "BOOL", 1),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "BYTES", 1),
        (np.array([1, 2, 3], np.uint8), np.array([1, 2, 3], np.uint8), "UINT8", 0),
    ],
)
def test_integers_booleans_and_strings_must_be_equal(live: Any, copy: Any, datatype: str, differing: int) -> None:
    answer = compared({"y": live}, {"y": copy})
    assert answer.outputs == (OutputComparison("y", datatype, 1, int(not differing)),)
    text = f"output 'y': {differing} of {live.size} elements differ"
    assert answer.mismatches == ({"values": text} if differing else {})


def test_other_shapes_datatypes_and_names_are_mismatches_and_other_outputs_are_still_compared() -> None:
    live = {"a": floats([1.0]), "b": floats([1.0]), "c": np.array([1]), "d": np.array([2])}
    copy = {"d": np.array([2]), "a": floats([1.0, 2.0]), "b": np.array([1]), "e": np.array([1])}
    answer = compared(live, copy)
    assert answer.mismatches == {
        "names": "the outputs are d, a, b, e instead of a, b, c, d",
        "shape": "output 'a': the shape is [1, 2] instead of [1, 1]",
        "datatype": "output 'b': the datatype is INT64 instead of FP32",
    }
    assert answer.outputs == (OutputComparison("d", "INT64", 1, 1),)


@pytest.mark.parametrize("shape", [(), (3, 1), (0, 4), (2, 0)])
def test_arrays_without_rows_have_no_largest_element(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    answer = compared({"y": array}, {"y": array})
    assert answer == ShadowCompared(7, (OutputComparison("y", "FP32", 1, 1),))


def test_outputs_that_do_not_match_their_payload_are_reported() -> None:
    specs, payload = packed({"y": floats([1.0, 2.0])})
    answer = compare_now(CompareShadow(7, specs, payload, specs, payload[:4]))
    assert isinstance(answer, ShadowCompared)
    assert "needs 8 bytes at 0; the payload has 4" in answer.error
