"""Goes through the nodes of an exported program and follows the rows from its inputs to its outputs."""

import operator
from collections.abc import Sequence
from typing import Any, Final

import torch

import clockwork.runtimes.torch.rows.layers
import clockwork.runtimes.torch.rows.rules  # noqa: F401 - these fill the table of rules
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
"""Operators that may use the number of rows as a size; their rules, or the shapes that result, show how."""

NO_RULE: Final = "is an operator without a rule"
_SIZES: Final = ("aten::sym_size", "aten::sym_numel", "aten::sym_stride", "aten::sym_storage_offset")


def analyse(program: Program, one_scale: bool = False) -> Proof:
    """Say whether each row of the outputs depends on the same row of the inputs only.

    All inputs have rows as their first dimension. ``one_scale``: operators that choose a scale for the whole batch are
    accepted.
    """
    placeholders = [node for node in program.graph.graph.nodes if node.op == "placeholder"]
    inputs = [placeholders[slot] for slot in program.input_slots]
    first = inputs[0].meta["val"].shape[0]
    if isinstance(first, int) or not first.node.expr.is_Symbol:
        return Proof(False, False, "its first dimension is not one that may have any size")
    analysis = _Analysis(first.node.expr, one_scale)
    for node in placeholders:
        analysis.add(node, is_input=node in inputs)
    names = [port.info.name for port in program.ports.outputs]
    return analysis.proof(program.graph.graph, names)


class _Analysis:
    """One program. ``rows`` is the symbol of the number of rows."""

    def __init__(self, rows: Any, one_scale: bool) -> None:
        self._rows = rows
        self._one_scale = one_scale
        self._known: dict[Any, Any] = {}

    def add(self, node: Any, is_input: bool) -> None:
        """A weight or an input."""
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
        found = [self._known.get(it) for it in outputs]
        values = [it if isinstance(it, Value) else unknown_value("an output is no tensor", mixes=False) for it in found]
        return proof_of(dict(zip(names, values, strict=True)))

    def _attribute(self, node: Any) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return Value(self._shape(value))
        return unknown_value(f"{node.name!r} is a program within the program", mixes=False)

    def _called(self, node: Any) -> Any:
        arguments = self._resolved([*node.args, *node.kwargs.values()])
        for it in _flat(arguments):
            if isinstance(it, Value) and it.problem is not None:
                return it
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
        schema = node.target._schema  # noqa: SLF001 - there is no other way to ask
        if schema.name in _SIZES:
            return self._number(value)
        if value is None and not schema.returns:
            return None  # a check of the exporter's
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
        made = self._shaped(result, value, call)
        _check_writes(schema, call, made)
        return made

    def _call(self, node: Any, schema: Any) -> Call:
        given = dict(zip([it.name for it in schema.arguments], self._resolved(node.args), strict=False))
        given |= dict(zip(node.kwargs, self._resolved(list(node.kwargs.values())), strict=True))
        for it in schema.arguments:
            if it.name not in given and it.has_default_value():
                given[it.name] = it.default_value
        if self._one_scale:
            given["one_scale"] = True
        value = node.meta.get("val")
        tensors = value if isinstance(value, list | tuple) else [value]
        shapes = [self._shape(it) if isinstance(it, torch.Tensor) else () for it in tensors]
        return Call(_name(node.target).removeprefix("aten."), given, shapes)

    def _shaped(self, result: Any, value: Any, call: Call) -> Any:
        """The result with the shapes that the exporter found."""
        if not isinstance(value, list | tuple):
            only = result if isinstance(result, Value) else result[0]
            return _with_shape(only, call.shapes[0])
        if isinstance(result, Value) or len(result) < len(value):
            raise UnknownRowsError(NO_RULE)
        return [_with_shape(it, shape) for it, shape in zip(result, call.shapes, strict=False)]

    def _resolved(self, it: Any) -> Any:
        if isinstance(it, torch.fx.Node):
            return self._known.get(it)
        if isinstance(it, list | tuple):
            return [self._resolved(each) for each in it]
        return it

    def _shape(self, tensor: Any) -> Shape:
        return tuple(self._size(it) for it in tensor.shape)

    def _number(self, value: Any) -> Any:
        """A number of the program's: a size, or whether sizes are related in some way."""
        if isinstance(value, torch.SymInt):
            size = self._size(value)
            return size if size.value is None else size.value
        if isinstance(value, torch.SymBool | torch.SymFloat):
            return opaque(str(value.node.expr), self._rows in value.node.expr.free_symbols)
        return value

    def _size(self, it: Any) -> Size:
        if isinstance(it, int):
            return number(it)
        return self._polynomial(it.node.expr)

    def _polynomial(self, expression: Any) -> Size:
        """An expression of sympy's; what is no polynomial is an unknown."""
        if expression.is_Integer:
            return number(int(expression))
        if expression == self._rows:
            return N
        if expression.is_Symbol:
            return unknown(f"${expression}")
        if expression.is_Mul:
            return product(self._polynomial(it) for it in expression.args)
        if expression.is_Add:
            total = number(0)
            for it in expression.args:
                total = total + self._polynomial(it)
            return total
        if expression.is_Pow and expression.exp.is_Integer and 0 < int(expression.exp) <= 8:
            return product([self._polynomial(expression.base)] * int(expression.exp))
        return opaque(str(expression), self._rows in expression.free_symbols)


def _with_shape(value: Value, shape: Shape) -> Value:
    """The value with another shape of the same rank, in which N is where the rows are and nowhere else.

    Raises:
        MixesRowsError: a size depends on the number of rows, and rows do not lie there.
    """
    if value.problem is not None:
        return value
    if value.rank != len(shape):
        raise UnknownRowsError(f"has a result of {len(shape)} dimensions, where {value.rank} were expected")
    if any(size.depends_on_rows for i, size in enumerate(shape) if i != value.batch_axis):
        raise MixesRowsError(f"{COUNTS}: another size depends on it")
    if value.batch_axis is not None and shape[value.batch_axis].divided(N * value.inner) is None:
        raise UnknownRowsError("has rows where their number is not a factor of the size")
    return Value(shape, value.batch_axis, value.inner)


def _check_writes(schema: Any, call: Call, made: Any) -> None:
    """Check that an operator which writes to its input leaves the rows of that memory where they were."""
    for it in schema.arguments:
        if it.alias_info is not None and it.alias_info.is_write:
            written = call.arguments.get(it.name)
            if not isinstance(written, Value) or not isinstance(made, Value):
                raise UnknownRowsError("writes to memory that other tensors may share")
            if (written.batch_axis, written.inner) != (made.batch_axis, made.inner) or written.rank != made.rank:
                raise UnknownRowsError("writes rows to memory that had none")


def _flat(it: Any) -> Sequence[Any]:
    if isinstance(it, list | tuple):
        return [each for inner in it for each in _flat(inner)]
    return [it]


def _name(target: Any) -> str:
    """``aten.add``, without the overload."""
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - as torch.fx does
        return str(target._schema.name).replace("::", ".")  # noqa: SLF001 - there is no other way to ask
    return getattr(target, "__name__", str(target))
