"""Rules for layers of neural networks: products, convolutions, pooling, normalisation, recurrent layers."""

from collections.abc import Sequence
from typing import Any, Final

from clockwork.runtimes.onnx.rows.node import Node, as_int, as_size, rule
from clockwork.runtimes.rows.moves import along, broadcast, check_no_rows, transposed
from clockwork.runtimes.rows.products import einsum, matmul, per_row
from clockwork.runtimes.rows.size import ONE, Size, number
from clockwork.runtimes.rows.value import ACROSS, COUNTS, MixesRowsError, UnknownRowsError, Value, across_error

RECURRENT: Final = ("RNN", "GRU", "LSTM")
BIDIRECTIONAL: Final = 2
"""Number of directions of a bidirectional recurrent layer."""

NORMALISED_BY_BATCH: Final = "normalises by the mean of the whole batch, as in training"


@rule("MatMul", "com.microsoft.FusedMatMul")
def mat_mul(node: Node) -> Sequence[Value]:
    """Rule of MatMul, which multiplies as numpy does. FusedMatMul may first transpose the last two axes."""
    if node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        raise UnknownRowsError("transposes the axes that count matrices")
    left = _transposed_if(node.value(0), node.attributes.get("transA"))
    return [matmul(left, _transposed_if(node.value(1), node.attributes.get("transB")), node.out)]


@rule("com.microsoft.MatMulNBits", "com.microsoft.MatMulBnb4")
def mat_mul_n_bits(node: Node) -> Sequence[Value]:
    """Rule of MatMulNBits, which multiplies with packed weights of K x N numbers."""
    x = node.value(0)
    check_no_rows(*node.values(1))
    return [along(x, (x.rank - 1,), {x.rank - 1: number(int(node.attributes["N"]))})]


@rule("Gemm", "com.microsoft.FusedGemm")
def gemm(node: Node) -> Sequence[Value]:
    """Rule of Gemm, which multiplies matrices and adds a tensor."""
    left = _transposed_if(node.value(0), node.attributes.get("transA"))
    right = _transposed_if(node.value(1), node.attributes.get("transB"))
    result = matmul(left, right, node.out)
    return [broadcast([result, node.value(2)], node.out) if node.has(2) else result]


def _transposed_if(value: Value, condition: Any) -> Value:
    if not condition or value.rank < 2:
        return value
    order = list(range(value.rank))
    return transposed(value, [*order[:-2], order[-1], order[-2]])


@rule("Einsum")
def einstein_sum(node: Node) -> Sequence[Value]:
    """Rule of Einsum, which sums products by the labels of axes."""
    return [einsum(node.attributes["equation"], node.values(), node.out)]


def spatial(node: Node, x: Value) -> list[Size]:
    """Return unknown sizes for the axes after the channels.

    `graph` replaces these sizes with those that ONNX's shape inference finds.
    """
    return [node.unknown_size(i) for i in range(2, x.rank)]


@rule("Conv", "ConvTranspose", "com.microsoft.FusedConv")
def convolution(node: Node) -> Sequence[Value]:
    """Rule of convolutions, which compute each row separately with the same weights."""
    x, weights = node.value(0), node.value(1)
    if x.rank < 3:
        raise UnknownRowsError("has an input without spatial axes")
    channels = weights.shape[0]
    if node.operator == "ConvTranspose":
        channels = weights.shape[1] * number(int(node.attributes.get("group", 1)))
    result = per_row(x, channels, spatial(node, x), weights, *node.values(2)[:1])
    return [broadcast([result, node.value(3)], node.out) if node.has(3) else result]


@rule("DeformConv")
def deformable_convolution(node: Node) -> Sequence[Value]:
    """Rule of DeformConv, a convolution with offsets and masks for each row."""
    x, weights, offsets = node.value(0), node.value(1), node.value(2)
    for tensor in (x, offsets, *([node.value(4)] if node.has(4) else [])):
        node.rowwise(tensor, 4)
        if (tensor.batch_axis, tensor.inner) != (x.batch_axis, x.inner):
            raise MixesRowsError(f"{ACROSS}: the rows of its inputs do not correspond")
    check_no_rows(*([node.value(3)] if node.has(3) else []))
    return [per_row(x, weights.shape[0], spatial(node, x), weights)]


@rule("AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxPool", "LRN")
def pool(node: Node) -> Sequence[Value]:
    """Rule of pooling, which computes each channel of each row separately.

    MaxPool can also return the indices of the maxima. These indices count through the whole batch, so they mix rows.
    """
    x = node.value(0)
    if x.rank < 3:
        raise UnknownRowsError("has an input without spatial axes")
    if node.operator == "MaxPool" and len(node.outputs) > 1 and node.outputs[1] and x.batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: it counts the indices of maxima through the whole batch")
    if node.operator == "LRN":
        return [per_row(x, None, x.shape[2:])]
    whole_image = [ONE] * (x.rank - 2)
    result = per_row(x, None, whole_image if node.operator.startswith("Global") else spatial(node, x))
    return [result, result]


@rule("MaxRoiPool", "RoiAlign", "MaxUnpool")
def regions(node: Node) -> Sequence[Value]:
    """Rule of operators such as RoiAlign, with an input that contains the positions of rows in the batch."""
    if any(tensor.batch_axis is not None for tensor in node.values()):
        raise MixesRowsError(f"{ACROSS}: it selects elements by their position in the batch")
    raise UnknownRowsError("is used in a way without a rule")


@rule("BatchNormalization")
def batch_normalization(node: Node) -> Sequence[Value]:
    """Rule of BatchNormalization outside training, which normalises with the means and variances from training."""
    x = node.value(0)
    if node.attributes.get("training_mode") or sum(map(bool, node.outputs)) > 1:
        raise MixesRowsError(NORMALISED_BY_BATCH)
    check_no_rows(*node.values(1))
    return [along(x, (1,) if x.rank > 1 else (0,))]


@rule("InstanceNormalization", "GroupNormalization")
def group_normalization(node: Node) -> Sequence[Value]:
    """Rule of GroupNormalization, which normalises over the channels and positions of each row."""
    x = node.value(0)
    return [per_row(x, None, x.shape[2:], *node.values(1))]


@rule("DepthToSpace", "SpaceToDepth", "Col2Im")
def rearranged(node: Node) -> Sequence[Value]:
    """Rule of operators that move elements between channels and positions."""
    x = node.value(0)
    check_no_rows(*node.values(1))
    if node.operator == "Col2Im":
        sizes = [as_size(size) for size in node.numbers(1)]
        return [per_row(x, node.unknown_size(1), sizes)]
    block = number(int(node.attributes["blocksize"]))
    node.rowwise(x, 4)
    if node.operator == "DepthToSpace":
        channels, places = x.shape[1].divided(block * block), [size * block for size in x.shape[2:]]
        return [per_row(x, channels or node.unknown_size(1), places)]
    divided = [x.shape[i].divided(block) or node.unknown_size(i) for i in (2, 3)]
    return [per_row(x, x.shape[1] * block * block, divided)]


@rule("GridSample")
def grid_sample(node: Node) -> Sequence[Value]:
    """Rule of GridSample, which samples each row at the positions in the row's grid."""
    x, grid = node.value(0), node.value(1)
    if (x.batch_axis, grid.batch_axis) not in ((0, 0), (None, None)) or x.inner != grid.inner:
        raise MixesRowsError(f"{ACROSS}: its grids do not correspond to the rows")
    return [per_row(x, None, grid.shape[1:-1])]


@rule("Resize", "Upsample")
def resize(node: Node) -> Sequence[Value]:
    """Rule of Resize, which scales by factors or to sizes. The batch axis must keep its size."""
    x = node.value(0)
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnknownRowsError("keeps the aspect ratio")
    if node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnknownRowsError("crops its input")
    axes = [as_int(axis) % x.rank for axis in node.attributes.get("axes", range(x.rank))]
    by_sizes = node.has(3) and node.input(3).elements != number(0)
    if "scales" in node.attributes:
        factors = list(node.attributes["scales"])
    else:
        at = 3 if by_sizes else 2 if node.operator == "Resize" and node.version > 10 else 1
        factors = node.numbers(at)
    shape = list(x.shape)
    for axis, factor in zip(axes, factors, strict=True):
        kept = as_size(factor) == x.shape[axis] if by_sizes else factor == 1
        if kept:
            continue
        if x.batch_axis == axis:
            raise across_error(x)
        if isinstance(factor, Size) and factor.depends_on_rows:
            raise MixesRowsError(COUNTS)
        shape[axis] = as_size(factor) if by_sizes else node.unknown_size(axis)
    return [Value(tuple(shape), x.batch_axis, x.inner)]


@rule(*RECURRENT)
def recurrent(node: Node) -> Sequence[Value]:
    """Rule of recurrent layers. The batch axis is the second axis, or the first one if ``layout`` is 1."""
    x = node.value(0)
    if x.rank != 3:
        raise UnknownRowsError(f"has an input with {x.rank} dimensions; 3 are expected")
    batch = 0 if node.attributes.get("layout", 0) else 1
    if x.batch_axis not in (None, batch):
        raise across_error(x)
    check_no_rows(*(node.value(at) for at in (1, 2, 3, 7) if node.has(at)))
    for at, axis in ((4, 0), (5, batch), (6, batch)):
        if node.has(at):
            tensor = node.value(at)
            if (tensor.batch_axis is None) != (x.batch_axis is None) or (
                tensor.batch_axis is not None and (tensor.batch_axis != axis or tensor.inner != x.inner)
            ):
                raise MixesRowsError(f"{ACROSS}: input {at} does not correspond to the rows")
    directions = number(BIDIRECTIONAL if node.attributes.get("direction") == "bidirectional" else 1)
    hidden = (
        number(int(node.attributes["hidden_size"])) if "hidden_size" in node.attributes else node.value(2).shape[-1]
    )
    time, rows = x.shape[1 - batch], x.shape[batch]
    if batch:
        whole_output, last = (time, directions, rows, hidden), (directions, rows, hidden)
    else:
        whole_output, last = (rows, time, directions, hidden), (rows, directions, hidden)
    at_rows = (None, None) if x.batch_axis is None else (BIDIRECTIONAL, 1) if batch else (0, 0)
    end = Value(last, at_rows[1], x.inner)
    return [Value(whole_output, at_rows[0], x.inner), end, end]


@rule("com.microsoft.EmbedLayerNormalization")
def embeddings(node: Node) -> Sequence[Value]:
    """Rule of embedding layers, which add entries of embedding tables and normalise along the last axis."""
    ids, table = node.value(0), node.value(2)
    check_no_rows(*(node.value(at) for at in (2, 3, 4, 5, 6) if node.has(at)))
    for at in (0, 1, 7):
        if node.has(at):
            tensor = node.rowwise(node.value(at), 2)
            if (tensor.batch_axis, tensor.inner) != (ids.batch_axis, ids.inner):
                raise MixesRowsError(f"{ACROSS}: the rows of its inputs do not correspond")
    if node.has(8):
        check_no_rows(node.value(8))
    width = table.shape[-1]
    result = Value((*ids.shape, width), ids.batch_axis, ids.inner)
    return [result, Value((ids.shape[0],), ids.batch_axis, ids.inner), result]
