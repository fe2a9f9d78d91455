"""Weights drawn so that a deep network stays alive: its outputs are finite, not saturated, and depend on its input.

Rules of the file: what a tensor is for decides how it is drawn, and that is read off the node that takes it.

He et al. (2015, "Delving Deep into Rectifiers") keep the second moment of a rectified signal from layer to layer. Its
mean is positive, though, and the same for all inputs: after fifty layers little else is left, and every input has the
same output. So every filter's weights are centred, which cancels the mean, and scaled by what is left of the variance
of a rectified normal variable, 1/2 - 1/(2 pi).
"""

from collections.abc import Iterable, Mapping
from math import pi, prod
from typing import Any, Final

import numpy as np

from clockwork.arrays import Array

RECTIFIED_VARIANCE: Final = 1 / 2 - 1 / (2 * pi)
"""Of max(0, x), where x is a standard normal variable."""

SHORTCUT: Final = 0.5
"""Scale of what is added up. With 1, the variance would double with each of sixteen residual blocks."""

LOGIT_GAIN: Final[Mapping[str, float]] = {
    "alexnet": 2.0,
    "inception_v1": 4.0,
    "resnet50": 6.0,
    "shufflenet": 0.5,
    "squeezenet": 12.0,
    "zfnet512": 6.0,
}
"""Scale of the last layer, so that the most likely class has some hundredths to tenths of the probability; measured.

Pooling over the whole image averages most of the signal away.
"""


def fill(
    network: str, nodes: Iterable[Any], shapes: Mapping[str, tuple[int, ...]], chance: np.random.Generator
) -> dict[str, Array]:
    """Arrays of float32 for all shapes."""
    nodes = list(nodes)
    takers = {value: (node, i) for node in nodes for i, value in enumerate(node.input) if value in shapes}
    added = {value for node in nodes if node.op_type == "Sum" for value in node.input}
    last = [node for node in nodes if node.op_type in ("Conv", "Gemm")][-1]
    arrays: dict[str, Array] = {}
    for name, (node, position) in takers.items():
        array = _drawn(node, position, shapes[name], chance)
        if position == 1 and node.op_type == "BatchNormalization" and node.output[0] in added:
            array *= np.float32(SHORTCUT)
        if position == 1 and node is last:
            array *= np.float32(LOGIT_GAIN.get(network, 1.0))
        arrays[name] = array
    return arrays


def _drawn(node: Any, position: int, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    match node.op_type, position:
        case "Conv", 1:
            return _filters(shape, chance)
        case "Gemm", 1:
            transposed = any(it.name == "transB" and it.i for it in node.attribute)
            return _filters(shape, chance) if transposed else np.ascontiguousarray(_filters(shape[::-1], chance).T)
        case ("BatchNormalization" | "Mul", 1) | ("BatchNormalization", 4):
            return chance.uniform(0.8, 1.2, shape).astype(np.float32)  # a scale, or a variance
        case ("Conv" | "Gemm", 2) | ("BatchNormalization", 2 | 3) | ("Add", 1):
            return (chance.standard_normal(shape, dtype=np.float32) * np.float32(0.1)).astype(np.float32)  # a bias
    raise AssertionError(f"what is input {position} of {node.op_type} for?")


def _filters(shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """``shape`` is (filters, fan-in...)."""
    array = chance.standard_normal((shape[0], prod(shape[1:])), dtype=np.float32)
    array -= array.mean(axis=1, keepdims=True)
    array *= np.float32((1 / (RECTIFIED_VARIANCE * array.shape[1])) ** 0.5)
    return array.reshape(shape)
