"""Rules for operators on quantised numbers.

With a constant scale, rows are independent. With a scale that is computed from a whole tensor, rows are not
independent: one row with large elements makes the results of the other rows less precise by some per cent. An option of
the server accepts this loss: it sets the argument ``one_scale`` of `graph.analyse`.
"""

from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.onnx.rows.networks import convolution, pool
from clockwork.runtimes.onnx.rows.node import Node, rule
from clockwork.runtimes.rows.moves import along, axis_of, broadcast, check_no_rows
from clockwork.runtimes.rows.products import matmul
from clockwork.runtimes.rows.value import MixesRowsError, UnknownRowsError, Value

ONE_SCALE: Final = "chooses one scale for the whole batch"


@rule("QuantizeLinear", "DequantizeLinear", "com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear")
def by_constants(node: Node) -> Sequence[Value]:
    """Rule of conversions with one constant scale, or with one constant scale for each position along an axis."""
    x = node.value(0)
    scale = node.value(1)
    if any(tensor.batch_axis is not None for tensor in node.values(1)):
        raise UnknownRowsError("has a scale that is computed from rows")
    if scale.rank == 0 or (scale.rank == 1 and scale.elements.value == 1 and x.rank != 1):
        return [Value(x.shape, x.batch_axis, x.inner)]
    if scale.rank > 1:
        axes = tuple(range(x.rank))
        return [along(x, axes)]
    return [along(x, (axis_of(int(node.attributes.get("axis", 1)), x.rank),))]


@rule("DynamicQuantizeLinear")
def one_scale(node: Node) -> Sequence[Value]:
    """Rule of quantisation with a scale that is computed from the whole tensor."""
    x = node.value(0)
    if x.batch_axis is not None and not node.one_scale:
        raise MixesRowsError(ONE_SCALE)
    return [Value(x.shape, x.batch_axis, x.inner), Value(()), Value(())]


@rule("com.microsoft.DynamicQuantizeMatMul")
def dynamic_mat_mul(node: Node) -> Sequence[Value]:
    """Rule of products with quantised weights. The scale for the input is computed from the whole input."""
    x, weights = node.value(0), node.value(1)
    if x.batch_axis is not None and not node.one_scale:
        raise MixesRowsError(ONE_SCALE)
    check_no_rows(*node.values(1))
    result = matmul(x, weights, node.out)
    return [broadcast([result, node.value(4)], node.out) if node.has(4) else result]


@rule("com.microsoft.DynamicQuantizeLSTM")
def dynamic_lstm(node: Node) -> Sequence[Value]:
    """Rule of DynamicQuantizeLSTM, which quantises each step with one scale for all rows."""
    raise MixesRowsError(ONE_SCALE)


def _one_number(node: Node, *places: int) -> None:
    """Check that none of these inputs contains a separate number for each row. Inputs may be missing."""
    if any(node.has(at) and node.value(at).elements.value != 1 for at in places):
        raise UnknownRowsError("has a scale or a zero point for each row")


@rule("MatMulInteger", "com.microsoft.MatMulIntegerToFloat", "com.microsoft.MatMulInteger16")
def integer_mat_mul(node: Node) -> Sequence[Value]:
    """Rule of integer products with constant zero points and scales, which are the same for all rows."""
    check_no_rows(*node.values(2))
    _one_number(node, 2, 4)
    return [matmul(node.value(0), node.value(1), node.out)]


@rule("QLinearMatMul")
def linear_mat_mul(node: Node) -> Sequence[Value]:
    """Rule of products of quantised tensors. The scales and zero points of inputs and result are constants."""
    check_no_rows(*(node.value(at) for at in (1, 2, 4, 5, 6, 7) if node.has(at)))
    _one_number(node, 1, 2, 6, 7)
    return [matmul(node.value(0), node.value(3), node.out)]


@rule("com.microsoft.QGemm")
def linear_gemm(node: Node) -> Sequence[Value]:
    """Rule of Gemm with constant quantised weights and a bias."""
    if node.attributes.get("transA"):
        raise UnknownRowsError("transposes its input")
    x, weights = node.value(0), node.value(3)
    check_no_rows(*node.values(1))
    columns = weights.shape[0 if node.attributes.get("transB") else 1]
    return [along(x, (1,), {1: columns})]


@rule("ConvInteger")
def integer_convolution(node: Node) -> Sequence[Value]:
    """Rule of integer convolutions with constant zero points."""
    check_no_rows(*node.values(2))
    bare = Node("Conv", node.version, node.attributes, node.inputs[:2], node.outputs)
    return convolution(bare)


@rule("QLinearConv")
def linear_convolution(node: Node) -> Sequence[Value]:
    """Rule of convolutions with constant weights, scales and zero points."""
    check_no_rows(*(node.value(at) for at in range(1, len(node.inputs)) if node.has(at)))
    bare = Node("Conv", node.version, node.attributes, [node.inputs[0], node.inputs[3]], node.outputs)
    return convolution(bare)


@rule("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def linear_pair(node: Node) -> Sequence[Value]:
    """Rule of elementwise operators on two quantised tensors with constant scales and zero points."""
    check_no_rows(*(node.value(at) for at in (1, 2, 4, 5, 6, 7) if node.has(at)))
    return [broadcast([node.value(0), node.value(3)], node.out)]


@rule("com.microsoft.QLinearGlobalAveragePool", "com.microsoft.QLinearAveragePool")
def linear_pool(node: Node) -> Sequence[Value]:
    """Rule of pooling of quantised tensors. The channels must come before the spatial axes."""
    if node.attributes.get("channels_last"):
        raise UnknownRowsError("has its channels last")
    check_no_rows(*node.values(1))
    name = node.operator.rpartition("QLinear")[2]
    return pool(Node(name, node.version, node.attributes, node.inputs[:1], node.outputs))
