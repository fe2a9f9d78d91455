"""Visits the nodes of an exported program, and follows the rows from its inputs to its outputs."""

import operator
from collections.abc import Sequence
from typing import Any, Final

import torch

import clockwork.runtimes.torch.rows.layers
import clockwork.runtimes.torch.rows.rules  # noqa: F401 - both modules fill the table of rules
from clockwork.runtimes.rows.size import N, Size, number, opaque, product, unknown
from clockwork.runtimes.rows.value import (
    COUNTS,
    MixesRowsError,
    Proof,
    RowsError,
    Shape,
    UnknownRowsError,
    Value,
    proof_of,
    unknown_value,
)
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.rows.call import RULES, Call
from clockwork.runtimes.torch.rows.rules import pointwise

RESHAPING: Final = frozenset((
    "view", "reshape", "_unsafe_view", "_reshape_alias", "unflatten", "expand", "broadcast_to", "repeat", "slice",
    "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "arange", "group_norm", "native_group_norm",
))  # fmt: skip
"""Operators that may use the number of rows as a size. The rules of these operators, or the shapes of their results,
show whether this use mixes rows.
"""

NO_RULE: Final = "is an operator without a rule"
_SIZES: Final = ("aten::sym_size", "aten::sym_numel", "aten::sym_stride", "aten::sym_storage_offset")


def analyse(program: Program, one_scale: bool = False) -> Proof:
    """Analyse whether each row of the outputs depends only on the same row of the inputs.

    The rows of each input lie along its first dimension. If ``one_scale`` is true, accept operators that choose one
    scale for the whole batch.
    """
    placeholders = [node for node in program.graph.graph.nodes if node.op == "placeholder"]
    inputs = [placeholders[slot] for slot in program.input_slots]
    first = inputs[0].meta["val"].shape[0]
    if isinstance(first, int) or not first.node.expr.is_Symbol:
        return Proof(False, False, "its first dimension has a fixed size")
    analysis = _Analysis(first.node.expr, one_scale)
    for node in placeholders:
        analysis.add(node, is_input=node in inputs)
    names = [port.info.name for port in program.ports.outputs]
    return analysis.proof(program.graph.graph, names)


class _Analysis:
    """The analysis of one program. ``rows`` is the symbol for the number of rows."""

    def __init__(self, rows: Any, one_scale: bool) -> None:
        self._rows = rows
        self._one_scale = one_scale
        self._known: dict[Any, Any] = {}

    def add(self, node: Any, is_input: bool) -> None:
        """Add a weight or an input."""
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            self._known[node] = Value(self._shape(value), batch_axis=0 if is_input else None)
        else:
            self._known[node] = value

    def proof(self, graph: Any, names: Sequence[str]) -> Proof:
        outputs: Sequence[Any] = ()
        for node in graph.nodes:
            if node.op == "output":
                outputs = node.args[0]
            elif node.op == "get_attr":
                self._known[node] = self._attribute(node)
            elif node.op == "call_function":
                self._known[node] = self._called(node)
        found = [self._known.get(output) for output in outputs]
        values = [
            value if isinstance(value, Value) else unknown_value("an output is not a tensor", mixes=False)
            for value in found
        ]
        return proof_of(dict(zip(names, values, strict=True)))

    def _attribute(self, node: Any) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return Value(self._shape(value))
        return unknown_value(f"{node.name!r} is a program inside the program", mixes=False)

    def _called(self, node: Any) -> Any:
        arguments = self._resolved([*node.args, *node.kwargs.values()])
        for argument in _flat(arguments):
            if isinstance(argument, Value) and argument.problem is not None:
                return argument
        if node.target is operator.getitem and isinstance(arguments[0], list | tuple):
            return arguments[0][arguments[1]]
        try:
            return self._ruled(node)
        except RowsError as error:
            return unknown_value(f"{_name(node.target)} {node.name!r} {error}", isinstance(error, MixesRowsError))

    def _ruled(self, node: Any) -> Any:
        value = node.meta.get("val")
        if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - as torch.fx does
            if isinstance(value, torch.SymInt | int | torch.SymBool | bool | torch.SymFloat | float):
                return self._number(value)
            raise UnknownRowsError(NO_RULE)
        schema = node.target._schema  # noqa: SLF001 - there is no public way
        if schema.name in _SIZES:
            return self._number(value)
        if value is None and not schema.returns:
            return None  # the exporter added this check
        call = self._call(node, schema)
        name = call.operator
        if name not in RESHAPING:
            call.check_numbers()
        rule = RULES.get(name)
        if rule is None and name.endswith("_") and not name.startswith("_"):
            rule = RULES.get(name.removesuffix("_"))
        if rule is not None:
            result = rule(call)
        elif torch.Tag.nondeterministic_seeded in node.target.tags:
            raise MixesRowsError("draws random numbers for the whole batch")
        elif torch.Tag.pointwise in node.target.tags:
            result = pointwise(call)
        else:
            raise UnknownRowsError(NO_RULE)
        outputs = self._shaped(result, value, call)
        _check_writes(schema, call, outputs)
        return outputs

    def _call(self, node: Any, schema: Any) -> Call:
        arguments = dict(zip([argument.name for argument in schema.arguments], self._resolved(node.args), strict=False))
        arguments |= dict(zip(node.kwargs, self._resolved(list(node.kwargs.values())), strict=True))
        for argument in schema.arguments:
            if argument.name not in arguments and argument.has_default_value():
                arguments[argument.name] = argument.default_value
        if self._one_scale:
            arguments["one_scale"] = True
        value = node.meta.get("val")
        tensors = value if isinstance(value, list | tuple) else [value]
        shapes = [self._shape(tensor) if isinstance(tensor, torch.Tensor) else () for tensor in tensors]
        return Call(_name(node.target).removeprefix("aten."), arguments, shapes)

    def _shaped(self, result: Any, value: Any, call: Call) -> Any:
        """Return the result of a rule, with the shapes that the exporter found."""
        if not isinstance(value, list | tuple):
            only = result if isinstance(result, Value) else result[0]
            return _with_shape(only, call.shapes[0])
        if isinstance(result, Value) or len(result) < len(value):
            raise UnknownRowsError(NO_RULE)
        return [_with_shape(value, shape) for value, shape in zip(result, call.shapes, strict=False)]

    def _resolved(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self._known.get(argument)
        if isinstance(argument, list | tuple):
            return [self._resolved(each) for each in argument]
        return argument

    def _shape(self, tensor: Any) -> Shape:
        return tuple(self._size(dim) for dim in tensor.shape)

    def _number(self, value: Any) -> Any:
        """Return the value of a number in the program, which is a size or the result of a comparison of sizes."""
        if isinstance(value, torch.SymInt):
            size = self._size(value)
            return size if size.value is None else size.value
        if isinstance(value, torch.SymBool | torch.SymFloat):
            return opaque(str(value.node.expr), self._rows in value.node.expr.free_symbols)
        return value

    def _size(self, dim: Any) -> Size:
        if isinstance(dim, int):
            return number(dim)
        return self._polynomial(dim.node.expr)

    def _polynomial(self, expression: Any) -> Size:
        """Convert a sympy expression to a size. An expression that is not a polynomial becomes an unknown."""
        if expression.is_Integer:
            return number(int(expression))
        if expression == self._rows:
            return N
        if expression.is_Symbol:
            return unknown(f"${expression}")
        if expression.is_Mul:
            return product(self._polynomial(arg) for arg in expression.args)
        if expression.is_Add:
            total = number(0)
            for arg in expression.args:
                total = total + self._polynomial(arg)
            return total
        if expression.is_Pow and expression.exp.is_Integer and 0 < int(expression.exp) <= 8:
            return product([self._polynomial(expression.base)] * int(expression.exp))
        return opaque(str(expression), self._rows in expression.free_symbols)


def _with_shape(value: Value, shape: Shape) -> Value:
    """Return the value with a different shape of the same rank. Only the batch axis of this shape may depend on N.

    Raises:
        MixesRowsError: the size of another axis depends on the number of rows.
    """
    if value.problem is not None:
        return value
    if value.rank != len(shape):
        raise UnknownRowsError(f"has a result of {len(shape)} dimensions instead of {value.rank}")
    if any(size.depends_on_rows for i, size in enumerate(shape) if i != value.batch_axis):
        raise MixesRowsError(f"{COUNTS}: another size depends on it")
    if value.batch_axis is not None and shape[value.batch_axis].divided(N * value.inner) is None:
        raise UnknownRowsError("has rows along an axis whose size is not a multiple of their number")
    return Value(shape, value.batch_axis, value.inner)


def _check_writes(schema: Any, call: Call, outputs: Any) -> None:
    """Check that an operator that writes to its input does not move rows within this input."""
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            written = call.arguments.get(argument.name)
            if not isinstance(written, Value) or not isinstance(outputs, Value):
                raise UnknownRowsError("writes to memory that other tensors may share")
            before = (written.batch_axis, written.inner, written.rank)
            if before != (outputs.batch_axis, outputs.inner, outputs.rank):
                raise UnknownRowsError("writes rows to memory that has none")


def _flat(argument: Any) -> Sequence[Any]:
    if isinstance(argument, list | tuple):
        return [each for inner in argument for each in _flat(inner)]
    return [argument]


def _name(target: Any) -> str:
    """Return the operator's name without the overload, such as ``aten.add``."""
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - as torch.fx does
        return str(target._schema.name).replace("::", ".")  # noqa: SLF001 - there is no public way
    return getattr(target, "__name__", str(target))
