"""Rules for elementwise operators."""

from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.onnx.rows.node import RULES, Node, rule
from clockwork.runtimes.rows.moves import broadcast, check_no_rows
from clockwork.runtimes.rows.value import MixesRowsError, UnknownRowsError, Value

ELEMENTWISE: Final = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min",
    "Mish", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "PRelu", "Reciprocal", "RegexFullMatch", "Relu", "Round",
    "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "StringConcat", "Sub",
    "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor", "Affine", "ParametricSoftplus",
    "ScaledTanh", "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "com.microsoft.Gelu",
    "com.microsoft.QuickGelu", "ai.onnx.ml.Binarizer", "ai.onnx.ml.LabelEncoder", "ai.onnx.ml.CategoryMapper",
)  # fmt: skip

RANDOM: Final = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    "com.microsoft.RandomNormal", "com.microsoft.RandomUniform",
)  # fmt: skip


@rule(*ELEMENTWISE)
def elementwise(node: Node) -> Sequence[Value]:
    """Rule of elementwise operators, which broadcast their inputs.

    Before operator set 7, some of these operators aligned the axes of their inputs as an attribute specified.
    """
    if node.attributes.get("broadcast"):
        raise UnknownRowsError("broadcasts by the rules before operator set 7")
    return [broadcast(node.values(), node.out)]


@rule(*RANDOM)
def random(node: Node) -> Sequence[Value]:
    """Rule of random generators. A row's result depends on the row's position in the batch."""
    raise MixesRowsError("draws random numbers for the whole batch")


@rule("CastLike")
def cast_like(node: Node) -> Sequence[Value]:
    """Rule of CastLike, which converts the first input, and uses only the type of the second input."""
    return [node.value(0)]


@rule("Dropout")
def dropout(node: Node) -> Sequence[Value]:
    """Rule of Dropout. Outside training, the operator returns the input and a mask of the same shape."""
    if node.has(2) and node.numbers(2) != [False]:
        raise MixesRowsError("drops elements at random, as in training")
    kept = node.value(0)
    same = Value(kept.shape, kept.batch_axis, kept.inner)
    return [same, same]


def _quantised_elementwise(node: Node) -> Sequence[Value]:
    x = node.value(0)
    check_no_rows(*node.values(1))
    return [Value(x.shape, x.batch_axis, x.inner)]


RULES["com.microsoft.QLinearSigmoid"] = _quantised_elementwise
RULES["com.microsoft.QLinearLeakyRelu"] = _quantised_elementwise
