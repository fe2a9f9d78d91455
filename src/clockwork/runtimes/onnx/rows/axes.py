"""Rules for operators that compute along axes: reductions, sorting, normalisation along axes."""

from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.onnx.rows.node import Node, as_int, as_size, rule
from clockwork.runtimes.rows.moves import along, axis_of, broadcast, check_no_rows, reduced, unsqueezed
from clockwork.runtimes.rows.size import ONE, number
from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, UnknownRowsError, Value, across_error

REDUCTIONS: Final = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

SINCE_13: Final = 13
"""First version of ONNX's operator set in which Softmax and similar operators compute along only one axis."""


@rule(*REDUCTIONS)
def reduction(node: Node) -> Sequence[Value]:
    """Rule of operators that reduce the given axes, or all axes."""
    x = node.value(0)
    axes = node.axes(x.rank)
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return [Value(x.shape, x.batch_axis, x.inner)]
        axes = tuple(range(x.rank))
    return [reduced(x, axes, bool(node.attributes.get("keepdims", 1)))]


@rule("ArgMax", "ArgMin")
def arg(node: Node) -> Sequence[Value]:
    """Rule of operators such as ArgMax, which reduce one axis."""
    x = node.value(0)
    return [reduced(x, (node.axis(x.rank, 0),), bool(node.attributes.get("keepdims", 1)))]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node) -> Sequence[Value]:
    """Rule of Softmax, which computes along one axis. Old versions also compute along all later axes."""
    x = node.value(0)
    if node.version >= SINCE_13:
        return [along(x, (node.axis(x.rank, -1),))]
    return [along(x, range(node.axis(x.rank, 1), x.rank))]


@rule("LpNormalization", "com.microsoft.QLinearSoftmax")
def one_axis(node: Node) -> Sequence[Value]:
    """Rule of operators that compute along one axis.

    QLinearSoftmax may behave like an old version of Softmax, and then computes along all later axes as well.
    """
    x = node.value(0)
    first = node.axis(x.rank, -1)
    return [along(x, range(first, x.rank) if "QLinear" in node.operator else (first,))]


@rule("CumSum", "CumProd")
def cumulative(node: Node) -> Sequence[Value]:
    """Rule of operators that compute along the axis that the second input contains."""
    x = node.value(0)
    return [along(x, (axis_of(as_int(node.numbers(1)[0]), x.rank),))]


@rule("TopK")
def top_k(node: Node) -> Sequence[Value]:
    """Rule of TopK, which returns the largest values along one axis and their indices."""
    x = node.value(0)
    axis = node.axis(x.rank, -1)
    if x.batch_axis == axis:
        raise across_error(x)
    k = node.parameters("k_list", 1) if node.has(1) else [node.attributes.get("k", 1)]
    best = along(x, (axis,), {axis: as_size((k or [1])[0])})
    return [best, best]


@rule("NonZero", "Unique", "NonMaxSuppression", "StringNormalizer", "StringSplit")
def data_dependent_size(node: Node) -> Sequence[Value]:
    """Rule of operators whose output has a number of elements that depends on all rows."""
    values = node.values()
    if any(tensor.batch_axis is not None for tensor in values):
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on all rows")
    if node.operator == "NonZero":
        return [Value((number(values[0].rank), node.unknown_size(0)))]
    raise UnknownRowsError("has an output whose size depends on its input")


@rule("Compress")
def compress(node: Node) -> Sequence[Value]:
    """Rule of Compress, which selects elements along one axis or of the flattened tensor."""
    x = node.value(0)
    if node.input(1).batch_axis is not None or (x.batch_axis is not None and "axis" not in node.attributes):
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on all rows")
    if "axis" not in node.attributes:
        return [Value((node.unknown_size(0),))]
    axis = node.axis(x.rank, 0)
    return [along(x, (axis,), {axis: node.unknown_size(axis)})]


@rule("Trilu", "Det")
def matrices(node: Node) -> Sequence[Value]:
    """Rule of operators on matrices, which lie along the last two axes."""
    x = node.value(0)
    last = (x.rank - 2, x.rank - 1)
    check_no_rows(*node.values(1))
    if node.operator == "Trilu":
        return [along(x, last)]
    return [reduced(x, last, keep=False)]


@rule("ReverseSequence")
def reverse_sequence(node: Node) -> Sequence[Value]:
    """Rule of ReverseSequence, which reverses each sequence of the batch along the time axis up to a given length."""
    x, lengths = node.value(0), node.value(1)
    batch, time = node.axis(x.rank, 1, "batch_axis"), node.axis(x.rank, 0, "time_axis")
    if (
        x.batch_axis == time
        or (lengths.batch_axis is not None) != (x.batch_axis == batch)
        or not (x.inner == lengths.inner)
    ):
        raise MixesRowsError(f"{ACROSS}: its lengths and sequences lie along different axes")
    return [along(x, (time,))]


@rule("OneHot")
def one_hot(node: Node) -> Sequence[Value]:
    """Rule of OneHot, which adds an axis of size ``depth``."""
    x = node.value(0)
    if node.input(1).batch_axis is not None or node.value(2).batch_axis is not None:
        raise MixesRowsError("takes a parameter for the whole batch from its rows")
    axis = axis_of(int(node.attributes.get("axis", -1)), x.rank + 1)
    depth = node.input(1).content
    result = unsqueezed(x, (axis,))
    return [along(result, (axis,), {axis: node.unknown_size(axis) if depth is None else as_size(depth.flat[0])})]


@rule(
    "LayerNormalization",
    "RMSNormalization",
    "com.microsoft.SimplifiedLayerNormalization",
    "SimplifiedLayerNormalization",
)
def layer_normalization(node: Node) -> Sequence[Value]:
    """Rule of LayerNormalization, which normalises along an axis and all later axes."""
    x = node.value(0)
    axes = range(node.axis(x.rank, -1), x.rank)
    for tensor in node.values(1):
        if tensor.batch_axis is not None or tensor.rank > len(axes):
            raise UnknownRowsError("has a scale with more dimensions than it normalises")
    mean = along(x, axes, dict.fromkeys(axes, ONE))
    return [along(x, axes), mean, mean]


@rule("com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization")
def skip_layer_normalization(node: Node) -> Sequence[Value]:
    """Rule of SkipLayerNormalization, which normalises the sum of two inputs along the last axis."""
    check_no_rows(*node.values(2))
    total = broadcast([node.value(0), node.value(1)], node.out)
    last = (total.rank - 1,)
    mean = along(total, last, {last[0]: ONE})
    return [along(total, last), mean, mean, total]


@rule("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> Sequence[Value]:
    """Rule of MeanVarianceNormalization, which normalises along the given axes.

    The default axes include the batch axis.
    """
    x = node.value(0)
    return [along(x, tuple(axis_of(int(axis), x.rank) for axis in node.attributes.get("axes", (0, 2, 3))))]
