"""Visits the nodes of an ONNX graph and follows the rows from its inputs to its outputs.

If the rule of a node fails, only tensors that depend on the node become unknown. The graph may lack its larger weights,
because the analysis uses only tensors with up to `folding.MAX_CONTENT` elements.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

import clockwork.runtimes.onnx.rows.attention
import clockwork.runtimes.onnx.rows.axes
import clockwork.runtimes.onnx.rows.classical
import clockwork.runtimes.onnx.rows.elements
import clockwork.runtimes.onnx.rows.networks
import clockwork.runtimes.onnx.rows.quantised
import clockwork.runtimes.onnx.rows.shapes  # noqa: F401 - these fill the table of rules
from clockwork.runtimes.onnx.rows.folding import MAX_CONTENT, as_content, fold
from clockwork.runtimes.onnx.rows.node import RULES, Node
from clockwork.runtimes.rows.size import N, Size, number, opaque
from clockwork.runtimes.rows.value import (
    COUNTS,
    MixesRowsError,
    Proof,
    RowsError,
    UnknownRowsError,
    Value,
    proof_of,
    unknown_value,
)

ONNX: Final = ("", "ai.onnx")
"""Names of ONNX's own domain of operators."""

MAX_DEPTH: Final = 8
"""Limit of the nesting of If nodes."""

RESHAPING: Final = frozenset(
    (
        "ConstantOfShape",
        "Expand",
        "EyeLike",
        "Range",
        "Reshape",
        "Resize",
        "Shape",
        "Size",
        "Slice",
        "Tile",
        "TopK",
        "Upsample",
    )
)
"""Operators that may use the number of rows as a size. The rules of these operators check that rows are not mixed.
"""

_CONSTANTS: Final = ("value", "value_float", "value_floats", "value_int", "value_ints")


def analyse(model: Any, one_scale: bool = False) -> Proof:
    """Analyse whether each row of the outputs depends only on the same row of the inputs.

    ``model`` is a ModelProto, with or without its larger weights. The rows of an input lie along its first dimension.
    If ``one_scale`` is true, accept operators that choose one quantisation scale for the whole batch.
    """
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        return _Analysis(model, one_scale).proof()
    except (RecursionError, DecodeError, ValueError, RuntimeError) as error:
        return Proof(False, False, f"the graph cannot be analysed: {type(error).__name__}")


class _Analysis:
    """The analysis of one model."""

    def __init__(self, model: Any, one_scale: bool) -> None:
        self._graph = model.graph
        self._one_scale = one_scale
        self._versions = {
            opset.domain if opset.domain not in ONNX else "": opset.version for opset in model.opset_import
        }
        self._inferred = _inferred(model)

    def proof(self) -> Proof:
        known = _constants(self._graph)
        weights = set(known)
        known |= {tensor.name: _input(tensor) for tensor in self._graph.input if tensor.name not in weights}
        self._nodes(self._graph.node, known, 0)
        return proof_of({output.name: known.get(output.name, _missing(output.name)) for output in self._graph.output})

    def _nodes(self, nodes: Sequence[Any], known: dict[str, Value], depth: int) -> None:
        for proto in nodes:
            result = self._node(proto, known, depth)
            for i, name in enumerate(proto.output):
                if name:
                    value = (
                        result[i]
                        if i < len(result)
                        else unknown_value(f"{_label(proto)} has an output {i} without a rule", False)
                    )
                    known[name] = self._refined(name, value)

    def _node(self, proto: Any, known: Mapping[str, Value], depth: int) -> Sequence[Value]:
        inputs = [(known.get(name) or _missing(name)) if name else None for name in proto.input]
        for tensor in inputs:
            if tensor is not None and tensor.problem is not None:
                return [tensor] * len(proto.output)
        attributes = {attribute.name: _attribute(attribute) for attribute in proto.attribute}
        domain = "" if proto.domain in ONNX else proto.domain
        operator = f"{domain}.{proto.op_type}" if domain else proto.op_type
        node = Node(operator, self._versions.get(domain, 1), attributes, inputs, list(proto.output))
        node.one_scale = self._one_scale
        try:
            if operator == "If":
                return self._if(node, known, depth)
            return self._apply_rule(node)
        except RowsError as error:
            return [unknown_value(f"{_label(proto)} {error}", isinstance(error, MixesRowsError))] * len(proto.output)

    def _apply_rule(self, node: Node) -> Sequence[Value]:
        if node.operator == "Constant":
            return [_constant(node)]
        content = fold(node, node.inputs)
        if content is not None:
            return [Value(tuple(map(number, content.shape)), content=content)]
        if node.operator not in RESHAPING and any(
            tensor is not None and tensor.depends_on_batch_size for tensor in node.inputs
        ):
            raise MixesRowsError(COUNTS)
        rule = RULES.get(node.operator)
        if rule is not None:
            return [_checked(output) for output in rule(node)]
        values = node.values()
        shapes = [self._inferred.get(name) for name in node.outputs]
        known = "." not in node.operator and not any(
            isinstance(tensor, onnx.GraphProto) for tensor in node.attributes.values()
        )
        if not known or any(tensor.batch_axis is not None for tensor in values) or not values or None in shapes:
            raise UnknownRowsError("is an operator without a rule")
        return [Value(_shape(name, shape or ())) for name, shape in zip(node.outputs, shapes, strict=True)]

    def _if(self, node: Node, known: Mapping[str, Value], depth: int) -> Sequence[Value]:
        """Return the outputs of the branch that is executed.

        If the analysis cannot know the branch, return the properties that both branches have in common.
        """
        condition = node.input(0)
        if condition.batch_axis is not None:
            raise MixesRowsError("computes across rows: its condition for the whole batch is computed from rows")
        if condition.depends_on_batch_size:
            raise MixesRowsError("computes with the number of rows in the batch")
        if depth >= MAX_DEPTH:
            raise UnknownRowsError(f"is nested deeper than {MAX_DEPTH}")
        taken = None if condition.content is None else condition.content.flat[0]
        results = []
        for name, when in (("then_branch", True), ("else_branch", False)):
            if isinstance(taken, Size) or taken is None or bool(taken) is when:
                graph = node.attributes[name]
                inner = {**known, **_constants(graph)}
                self._nodes(graph.node, inner, depth + 1)
                results.append([inner.get(output.name, _missing(output.name)) for output in graph.output])
        return results[0] if len(results) == 1 else [_common(*pair) for pair in zip(*results, strict=True)]

    def _refined(self, name: str, value: Value) -> Value:
        """Replace unknown sizes with sizes that ONNX's own shape inference has found."""
        shape = self._inferred.get(name)
        if shape is None or value.problem is not None or len(shape) != value.rank:
            return value
        sizes = tuple(
            number(found) if size.is_opaque and found is not None else size
            for size, found in zip(value.shape, shape, strict=True)
        )
        return Value(sizes, value.batch_axis, value.inner, value.content)


def _checked(value: Value) -> Value:
    """Return the value after checking that only the size of its batch axis depends on the number of rows."""
    if any(size.depends_on_rows for axis, size in enumerate(value.shape) if axis != value.batch_axis):
        raise MixesRowsError(f"{COUNTS}: another size depends on it")
    return value


def _common(first: Value, second: Value) -> Value:
    """Return the properties that two tensors have in common. A condition at run time decides which tensor is used."""
    for tensor in (first, second):
        if tensor.problem is not None:
            return tensor
    if first.rank != second.rank or (first.batch_axis, first.inner) != (second.batch_axis, second.inner):
        return unknown_value("the branches of If return tensors with different batch axes", mixes=False)
    if first.batch_axis is not None and first.shape[first.batch_axis] != second.shape[first.batch_axis]:
        return unknown_value("the branches of If return tensors with different numbers of rows", mixes=False)
    sizes = [a if a == b else opaque(f"if({a!r},{b!r})") for a, b in zip(first.shape, second.shape, strict=True)]
    if first.depends_on_batch_size or second.depends_on_batch_size:
        return unknown_value("If computes with the number of rows in the batch", mixes=True)
    return Value(tuple(sizes), first.batch_axis, first.inner)


def _missing(name: str) -> Value:
    return unknown_value(f"tensor {name!r} has no source", mixes=False)


def _label(proto: Any) -> str:
    return f"{proto.op_type} {(proto.name or next(filter(None, proto.output), ''))!r}"


def _input(value: Any) -> Value:
    dims = value.type.tensor_type.shape.dim
    if not dims:
        return unknown_value(f"input {value.name!r} has no dimensions", mixes=False)
    sizes = [N]  # ONNX Runtime does not check that dimensions with the same name are equal
    for i, dim in enumerate(dims):
        if i:
            known = dim.HasField("dim_value")
            sizes.append(number(dim.dim_value) if known else opaque(f"{value.name}.{i}"))
    return Value(tuple(sizes), batch_axis=0)


def _constants(graph: Any) -> dict[str, Value]:
    result = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    for tensor in graph.sparse_initializer:
        result[tensor.values.name] = Value(tuple(map(number, tensor.dims)))
    return result


def _tensor(proto: Any) -> Value:
    shape = tuple(map(number, proto.dims))
    count = int(np.prod(proto.dims, dtype=np.int64))
    if count > MAX_CONTENT or proto.data_location == onnx.TensorProto.EXTERNAL:
        return Value(shape)
    try:
        array = onnx.numpy_helper.to_array(proto)
        return Value(shape, content=as_content(array) if array.dtype.kind in "biuf" else None)
    except (ValueError, TypeError):
        return Value(shape)


def _constant(node: Node) -> Value:
    for name in _CONSTANTS:
        if name in node.attributes:
            found = node.attributes[name]
            if isinstance(found, onnx.TensorProto):
                return _tensor(found)
            array = np.asarray(found)
            return Value(tuple(map(number, array.shape)), content=as_content(array))
    if "value_strings" in node.attributes:
        return Value((number(len(node.attributes["value_strings"])),))
    if "value_string" in node.attributes:
        return Value(())
    raise UnknownRowsError("has a value of a kind without a rule")


def _attribute(proto: Any) -> Any:
    found = onnx.helper.get_attribute_value(proto)
    return found.decode(errors="replace") if isinstance(found, bytes) else found


def _shape(name: str, sizes: Sequence[int | None]) -> tuple[Size, ...]:
    return tuple(opaque(f"{name}.{i}") if size is None else number(size) for i, size in enumerate(sizes))


def _inferred(model: Any) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of tensors according to ONNX's own shape inference. A size that is not a number is None.

    This function ignores the shapes that the file declares for intermediate tensors, because they may be wrong.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except Exception:  # noqa: BLE001 - it may raise anything; then sizes stay unknown
        return {}
    found: dict[str, tuple[int | None, ...]] = {}
    for tensor in graph.value_info:
        kind = tensor.type.tensor_type
        if tensor.type.HasField("tensor_type") and kind.HasField("shape"):
            found[tensor.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return found
