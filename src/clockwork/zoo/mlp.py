"""Builds a multilayer perceptron of size 64-64-10.

The network is so small that a benchmark with it measures the server, not the network.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH: Final = 64
"""Number of inputs, and number of hidden units."""

CLASSES: Final = 10
"""Number of outputs."""

GAIN: Final = 3.0
"""Scale of the last layer. This scale gives one class a clearly higher probability."""

OPSET: Final = 17
"""Version of ONNX's operator set."""


def model(rng: np.random.Generator) -> Any:
    """Return the network from ``data (N, 64) float32`` to ``prob (N, 10) float32``."""
    sizes = (WIDTH, WIDTH, CLASSES)
    weights = []
    nodes = []
    value = "data"
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes), 1):
        scale = (2 / fan_in) ** 0.5 * (GAIN if fan_out == CLASSES else 1)
        matrix = rng.standard_normal((fan_in, fan_out), dtype=np.float32) * np.float32(scale)
        bias = rng.standard_normal(fan_out, dtype=np.float32) * np.float32(0.1)
        weights += [numpy_helper.from_array(matrix, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [f"dense{layer}"]))
        value = f"dense{layer}"
        if fan_out != CLASSES:
            nodes.append(helper.make_node("Relu", [value], [f"relu{layer}"]))
            value = f"relu{layer}"
    nodes.append(helper.make_node("Softmax", [value], ["prob"], axis=1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["N", CLASSES])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
