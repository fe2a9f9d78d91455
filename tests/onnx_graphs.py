"""Small ONNX models for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None] | None

FLOAT = TensorProto.FLOAT


def value(name: str, dims: Dims, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """Return a NodeProto. Names are separated by spaces, as in ``node("Add", "x y", "z")``."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], opset: int = 17, **weights: Any) -> Any:
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def dense(seed: int = 0, width: int = 32, classes: int = 5, batch: int | str = "N") -> Any:
    """Return a model ``x [N, width]`` to ``y [N, classes]``. Its weights are too large to stay in the graph."""
    rng = np.random.default_rng(seed)
    return model(
        [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("MatMul", "r w2", "y")],
        [value("x", [batch, width])],
        [value("y", [batch, classes])],
        w1=rng.standard_normal((width, width), dtype=np.float32),
        w2=rng.standard_normal((width, classes), dtype=np.float32),
    )


def slow(width: int = 64, layers: int = 12) -> Any:
    """Return a model ``x [1, width * width]`` to ``y [1, width, width, width]`` that computes for tens of milliseconds.

    It has few weights, so its time depends on arithmetic alone: about 0.3 GFLOP for each layer of the default width.
    """
    rng = np.random.default_rng(0)
    first, rest = rng.standard_normal((width, 1, 3, 3)), rng.standard_normal((width, width, 3, 3))
    convolutions = [
        node("Conv", f"c{layer} {'rest' if layer else 'first'}", f"c{layer + 1}", pads=[1, 1, 1, 1])
        for layer in range(layers - 1)
    ]
    return model(
        [node("Reshape", "x shape", "c0"), *convolutions, node("Conv", f"c{layers - 1} rest", "y", pads=[1, 1, 1, 1])],
        [value("x", [1, width * width])],
        [value("y", [1, width, width, width])],
        shape=np.array([1, 1, width, width]),
        first=first.astype(np.float32) / 10,
        rest=rest.astype(np.float32) / 10,
    )


def echo(kind: int, dims: Dims = ("N", 3), opset: int = 17) -> Any:
    """Return a model whose output ``y`` equals its input ``x``."""
    return model([node("Identity", "x", "y")], [value("x", dims, kind)], [value("y", dims, kind)], opset)


def saved(proto: Any, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(proto, file)
    return file


def saved_with_external_data(proto: Any, file: Path, location: str = "weights.bin") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(proto, file, save_as_external_data=True, location=location, size_threshold=0)
    return file
