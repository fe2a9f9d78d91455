"""Makes random weights for deep networks.

With these weights, outputs are finite, not saturated, and depend on the input.

The distribution of a weight tensor depends on the node that uses the tensor.

The method of He et al. (2015, "Delving Deep into Rectifiers") preserves the second moment of a rectified signal from
layer to layer. But the mean of this signal is positive and the same for all inputs. After fifty layers, the mean
dominates, so that all inputs have the same output. Therefore, this module shifts the weights of each filter to a mean
of 0, which cancels the mean of the signal. The module scales the weights by the variance of a rectified normal
variable, which is 1/2 - 1/(2 pi).
"""

from collections.abc import Iterable, Mapping
from math import pi, prod
from typing import Any, Final

import numpy as np

from clockwork.arrays import Array

RECTIFIED_VARIANCE: Final = 1 / 2 - 1 / (2 * pi)
"""Variance of max(0, x), where x is a standard normal variable."""

SHORTCUT: Final = 0.5
"""Scale of the residual branches that are added. With a scale of 1, each of sixteen residual blocks would double the
variance.
"""

LOGIT_GAIN: Final[Mapping[str, float]] = {
    "alexnet": 2.0,
    "inception_v1": 4.0,
    "resnet50": 6.0,
    "shufflenet": 0.5,
    "squeezenet": 12.0,
    "zfnet512": 6.0,
}
"""Scale of the last layer by network.

The numbers were found by measurement. With these scales, the probability of the most likely class is between a few
hundredths and a few tenths. Without such scales, pooling over the whole image would average out most of the signal.
"""


def fill(
    network: str, nodes: Iterable[Any], shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, Array]:
    """Return a float32 array for each shape. ``network`` selects the scale of the last layer."""
    nodes = list(nodes)
    users = {value: (node, i) for node in nodes for i, value in enumerate(node.input) if value in shapes}
    added = {value for node in nodes if node.op_type == "Sum" for value in node.input}
    last = [node for node in nodes if node.op_type in ("Conv", "Gemm")][-1]
    arrays: dict[str, Array] = {}
    for name, (node, position) in users.items():
        array = _draw(node, position, shapes[name], rng)
        if position == 1 and node.op_type == "BatchNormalization" and node.output[0] in added:
            array *= np.float32(SHORTCUT)
        if position == 1 and node is last:
            array *= np.float32(LOGIT_GAIN.get(network, 1.0))
        arrays[name] = array
    return arrays


def _draw(node: Any, position: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    match node.op_type, position:
        case "Conv", 1:
            return _filters(shape, rng)
        case "Gemm", 1:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            return _filters(shape, rng) if transposed else np.ascontiguousarray(_filters(shape[::-1], rng).T)
        case ("BatchNormalization" | "Mul", 1) | ("BatchNormalization", 4):
            return rng.uniform(0.8, 1.2, shape).astype(np.float32)  # this tensor is a scale or a variance
        case ("Conv" | "Gemm", 2) | ("BatchNormalization", 2 | 3) | ("Add", 1):
            # this tensor is a bias
            return (rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)).astype(np.float32)
    raise AssertionError(f"input {position} of {node.op_type} has no rule")


def _filters(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw filters. ``shape`` is (filters, fan-in...)."""
    array = rng.standard_normal((shape[0], prod(shape[1:])), dtype=np.float32)
    array -= array.mean(axis=1, keepdims=True)
    array *= np.float32((1 / (RECTIFIED_VARIANCE * array.shape[1])) ** 0.5)
    return array.reshape(shape)
