"""Finds sizes of free dimensions in the nodes that read an input, such as the channels of a convolution.

Two kinds of nodes are considered: nodes that read the input itself, and nodes that read a tensor that was computed from
the input without a change of shape. A wrong size does no harm, because many sizes are tried.
"""

from collections.abc import Iterator
from typing import Any, Final

from clockwork.runtimes.onnx.files import tensors

_KEEP_SHAPE: Final = frozenset(("Cast", "Identity", "Relu", "Sigmoid", "Tanh", "QuantizeLinear", "DequantizeLinear"))

_ELEMENTWISE: Final = frozenset(("Add", "Sub", "Mul", "Div"))


def known_sizes(model: Any) -> dict[str, dict[int, int]]:
    """Return sizes by input and dimension. ``model`` is a ModelProto, with or without its weights' elements."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in tensors(model.graph) if tensor.name}
    rank = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    origin = {name: name for name in rank if name not in weights}  #: tensor -> the input that has the same shape
    found: dict[str, dict[int, int]] = {}
    for node in model.graph.node:
        read = origin.get(node.input[0]) if node.input else None
        if read is None:
            continue
        shapes = [weights.get(name, ()) for name in node.input[1:]]
        for dim, size in _sizes(node, rank[read], shapes):
            if dim >= 0 and size > 0:
                found.setdefault(read, {}).setdefault(dim, size)
        scalars = all(all(size == 1 for size in shape) for shape in shapes)
        if node.op_type in _KEEP_SHAPE or (node.op_type in _ELEMENTWISE and shapes and shapes[0] and scalars):
            origin[node.output[0]] = read
    return found


def _sizes(node: Any, rank: int, weights: list[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Yield dimensions of a node's first input, each with its size.

    The sizes follow from the shapes of the node's weights.
    """
    first = weights[0] if weights else ()
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    match node.op_type:
        case "Conv" if len(first) > 1:
            yield 1, first[1] * (attributes.get("group") or 1)
        case "ConvTranspose" if first:
            yield 1, first[0]
        case "MatMul" if len(first) > 1:
            yield rank - 1, first[-2]
        case "Gemm" if len(first) == 2 and not attributes.get("transA"):
            yield rank - 1, first[1 if attributes.get("transB") else 0]
        case "BatchNormalization" | "InstanceNormalization" if first:
            yield 1, first[0]
        case "LayerNormalization" if first:
            yield rank - 1, first[-1]
        case "LSTM" | "GRU" | "RNN" if len(first) == 3:
            yield 2, first[2]
        case "Add" | "Sub" | "Mul" | "Div" if 0 < len(first) <= rank:
            for i, size in enumerate(reversed(first)):
                if size > 1:
                    yield rank - 1 - i, size
