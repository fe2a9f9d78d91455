"""Metadata describes outputs as responses will have them, whatever the graph declares."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.runtimes.onnx import OnnxRuntime
from onnx_graphs import Dims, model, node, saved, value


def reshaped(declared: Dims) -> Any:
    """Return a model from ``x [N, 4]`` to ``y [N, 4]``, whose output's shape ONNX Runtime cannot infer."""
    return model(
        [node("Shape", "x", "s"), node("Mul", "s one", "t"), node("Reshape", "x t", "y")],
        [value("x", ["N", 4])],
        [value("y", declared)],
        one=np.array([1, 1], np.int64),
    )


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        (["N", 4], (-1, 4)),
        (["N", "M"], (-1, -1)),
        (None, (-1, -1)),
        (["N", 7], (-1, -1)),
        ([1, 4], (-1, 4)),
        (["N", 4, 1], (-1, -1)),
    ],
)
def test_an_output_is_described_as_responses_have_it(declared: Dims, shape: tuple[int, ...], tmp_path: Path) -> None:
    info = OnnxRuntime().load_model(saved(reshaped(declared), tmp_path / "model.onnx")).info
    assert [output.shape for output in info.outputs] == [shape]
    assert info.batchable


def test_an_output_with_one_row_for_any_number_of_rows_keeps_its_shape(tmp_path: Path) -> None:
    proto = model(
        [node("ReduceSum", "x axes", "y", keepdims=1)],
        [value("x", ["N", 4])],
        [value("y", [1, 4])],
        axes=np.array([0], np.int64),
    )
    info = OnnxRuntime().load_model(saved(proto, tmp_path / "model.onnx")).info
    assert [output.shape for output in info.outputs] == [(1, 4)]
    assert not info.batchable
