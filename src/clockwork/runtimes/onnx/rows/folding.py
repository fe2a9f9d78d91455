"""Computes the elements of small tensors (constant folding), so that models that use ``Shape`` can be analysed.

An element is a Python number or a `Size`. An element that cannot be computed becomes an unknown `Size`. The unknown's
name consists of the operator and its operands, so that equal computations give equal unknowns. If this module does not
implement an operator, the elements of the operator's output are unknown.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import onnx

from clockwork.runtimes.onnx.rows.node import Node, as_int
from clockwork.runtimes.onnx.rows.shapes import reshape_target
from clockwork.runtimes.rows.moves import axis_of
from clockwork.runtimes.rows.size import Size, number, opaque
from clockwork.runtimes.rows.value import UnknownRowsError, Value

MAX_CONTENT: Final = 4096
"""Number of elements of the largest tensor whose elements are computed."""

_INTEGERS: Final = frozenset({2, 3, 4, 5, 6, 7, 12, 13})  #: integer types of TensorProto
_BOOL: Final = 9

Content: TypeAlias = Any
"""An array of objects: Python numbers and sizes."""


def fold(node: Node, values: Sequence[Value | None]) -> Content | None:
    """Return the elements of the node's only output, or None if they cannot be computed."""
    function = _FUNCTIONS.get(node.operator)
    if function is None or len(node.outputs) != 1:
        return None
    contents = [None if tensor is None else tensor.content for tensor in values]
    if any(content is None and tensor is not None for content, tensor in zip(contents, values, strict=True)):
        return None
    try:
        result = function(node, contents)
    except (ArithmeticError, IndexError, TypeError, ValueError, KeyError, UnknownRowsError):
        return None
    return result if result.size <= MAX_CONTENT else None


def as_content(array: Any) -> Content:
    """Convert a numpy array to an array of Python numbers."""
    result = np.empty(array.shape, object)
    result[...] = array.astype(object)
    return result


def _plain(value: Any) -> Any:
    """Convert a size without unknowns to a number. Any other element is returned unchanged."""
    return value.value if isinstance(value, Size) and value.value is not None else value


def _each(name: str, function: Callable[..., Any]) -> Callable[[Node, Sequence[Content]], Content]:
    """Return a function that applies ``function`` to each element.

    If ``function`` returns None, the element is unknown.
    """

    def one(*operands: Any) -> Any:
        result = function(*operands)
        if result is not None:
            return _plain(result)
        depends = any(isinstance(operand, Size) and operand.depends_on_rows for operand in operands)
        return opaque(f"{name}({','.join(map(repr, operands))})", depends)

    def all_of(node: Node, contents: Sequence[Content]) -> Content:
        result = np.frompyfunc(one, len(contents), 1)(*contents)
        return result if isinstance(result, np.ndarray) else _scalar(result)

    return all_of


def _scalar(value: Any) -> Content:
    result = np.empty((), object)
    result[()] = value
    return result


def _sizes(a: Any, b: Any) -> tuple[Size, Size] | None:
    """Return both operands as sizes, or None if one of them is not an integer."""
    result = [
        operand if isinstance(operand, Size) else number(int(operand)) if operand == int(operand) else None
        for operand in (a, b)
    ]
    return None if result[0] is None or result[1] is None else (result[0], result[1])


def _arithmetic(on_numbers: Callable[[Any, Any], Any], on_sizes: Callable[[Size, Size], Any]) -> Callable[..., Any]:
    def compute(a: Any, b: Any) -> Any:
        if not isinstance(a, Size) and not isinstance(b, Size):
            return on_numbers(a, b)
        pair = _sizes(a, b)
        return None if pair is None else on_sizes(*pair)

    return compute


def _divided(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # ONNX rounds towards zero, as C does
    return a / b


def _remainder(a: Any, b: Any) -> Any:
    return a % b if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0 else None


def _larger(a: Size, b: Size) -> Size | None:
    return a if a == b or a.exceeds(b) else b if b.exceeds(a) else None


def _smaller(a: Size, b: Size) -> Size | None:
    return a if a == b or b.exceeds(a) else b if a.exceeds(b) else None


def _equal(a: Size, b: Size) -> bool | None:
    return True if a == b else False if a.exceeds(b) or b.exceeds(a) else None


def _greater(a: Size, b: Size) -> bool | None:
    return True if a.exceeds(b) else False if a == b or b.exceeds(a) else None


def _or_equal(a: Size, b: Size) -> bool | None:
    return True if a == b or a.exceeds(b) else False if b.exceeds(a) else None


def _where(condition: Any, a: Any, b: Any) -> Any:
    if isinstance(condition, Size):
        return a if a == b else None
    return a if condition else b


def _logic(function: Callable[[bool, bool], bool]) -> Callable[..., Any]:
    return lambda a, b: None if isinstance(a, Size) or isinstance(b, Size) else function(bool(a), bool(b))


def _round_numbers(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a function that rounds numbers with ``function``. Sizes stay the same, because they are integers."""
    return lambda a: a if isinstance(a, Size) else function(a)


def _cast(node: Node, contents: Sequence[Content]) -> Content:
    to = int(node.attributes["to"])

    def one(value: Any) -> Any:
        if to == _BOOL:
            return (True if value.exceeds(number(0)) else None) if isinstance(value, Size) else bool(value)
        if isinstance(value, Size):
            return value
        return int(value) if to in _INTEGERS else float(value)

    return _each("bool", one)(node, contents)


def _sizes_of_range(node: Node, contents: Sequence[Content]) -> Content:
    start, limit, step = (as_int(content.flat[0]) for content in contents)
    return as_content(np.arange(start, limit, step)[: MAX_CONTENT + 1])


def _constant_of_shape(node: Node, contents: Sequence[Content]) -> Content:
    shape = [as_int(size) for size in contents[0].flat]
    if math.prod(shape) > MAX_CONTENT:
        raise UnknownRowsError("is too large")
    value = node.attributes.get("value")
    return np.full(shape, 0.0 if value is None else onnx.numpy_helper.to_array(value).ravel()[0].item(), object)


def _expand(node: Node, contents: Sequence[Content]) -> Content:
    x, shape = contents[0], [as_int(size) for size in contents[1].flat]
    whole_shape = np.broadcast_shapes(x.shape, tuple(shape))
    if math.prod(whole_shape) > MAX_CONTENT:
        raise UnknownRowsError("is too large")
    return np.broadcast_to(x, whole_shape).copy()


def _reshape(node: Node, contents: Sequence[Content]) -> Content:
    x = contents[0]
    sizes = reshape_target(
        Value(tuple(map(number, x.shape))), list(contents[1].flat), bool(node.attributes.get("allowzero", 0))
    )
    return x.reshape([as_int(size) for size in sizes])


def _slice(node: Node, contents: Sequence[Content]) -> Content:
    x = contents[0]
    starts, ends = node.parameters("starts", 1) or [], node.parameters("ends", 2) or []
    axes = node.parameters("axes", 3) or list(range(len(starts)))
    steps = node.parameters("steps", 4) or [1] * len(starts)
    where = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        where[axis_of(as_int(axis), x.ndim)] = slice(as_int(start), as_int(end), as_int(step))
    return x[tuple(where)]


def _unsqueeze(node: Node, contents: Sequence[Content]) -> Content:
    return np.expand_dims(contents[0], [as_int(axis) for axis in node.parameters("axes", 1) or []])


def _squeeze(node: Node, contents: Sequence[Content]) -> Content:
    axes = node.axes(contents[0].ndim)
    return np.squeeze(contents[0], axes)


def _gather(node: Node, contents: Sequence[Content]) -> Content:
    indices = np.array([as_int(index) for index in contents[1].flat], np.int64).reshape(contents[1].shape)
    result: Any = np.take(contents[0], indices, int(node.attributes.get("axis", 0)))
    return result if isinstance(result, np.ndarray) else _scalar(result)


def _concat(node: Node, contents: Sequence[Content]) -> Content:
    return np.concatenate(list(contents), int(node.attributes.get("axis", 0)))


def _product(node: Node, contents: Sequence[Content]) -> Content:
    x = contents[0]
    if node.axes(x.ndim) not in (None, tuple(range(x.ndim))):
        raise UnknownRowsError("reduces only some axes")
    total: Any = number(1)
    for factor in x.flat:
        total = total * (factor if isinstance(factor, Size) else number(as_int(factor)))
    result = _scalar(_plain(total))
    return result.reshape([1] * x.ndim) if node.attributes.get("keepdims", 1) else result


_PAIRS: Final[dict[str, tuple[Callable[[Any, Any], Any], Callable[[Size, Size], Any]]]] = {
    "Add": (operator.add, operator.add),
    "Sub": (operator.sub, operator.sub),
    "Mul": (operator.mul, operator.mul),
    "Div": (_divided, lambda a, b: a.divided(b)),
    "Mod": (_remainder, lambda a, b: None),
    "Max": (max, _larger),
    "Min": (min, _smaller),
    "Equal": (operator.eq, _equal),
    "Greater": (operator.gt, _greater),
    "Less": (operator.lt, lambda a, b: _greater(b, a)),
    "GreaterOrEqual": (operator.ge, _or_equal),
    "LessOrEqual": (operator.le, lambda a, b: _or_equal(b, a)),
}

_FUNCTIONS: Final[dict[str, Callable[[Node, Sequence[Content]], Content]]] = {
    **{name: _each(name, _arithmetic(*pair)) for name, pair in _PAIRS.items()},
    "And": _each("And", _logic(lambda a, b: a and b)),
    "Or": _each("Or", _logic(lambda a, b: a or b)),
    "Not": _each("Not", lambda a: None if isinstance(a, Size) else not a),
    "Neg": _each("Neg", lambda a: number(0) - a if isinstance(a, Size) else -a),
    "Floor": _each("Floor", _round_numbers(lambda a: float(math.floor(a)))),
    "Ceil": _each("Ceil", _round_numbers(lambda a: float(math.ceil(a)))),
    "Where": _each("Where", _where),
    "Identity": lambda node, contents: contents[0],
    "Cast": _cast,
    "Range": _sizes_of_range,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Reshape": _reshape,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Gather": _gather,
    "Concat": _concat,
    "ReduceProd": _product,
}
