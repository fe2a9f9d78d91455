"""Rules for operators that move elements: shapes, slices, joins, elements by their numbers."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from clockwork.runtimes.onnx.rows.node import Node, as_size, rule, whole
from clockwork.runtimes.rows.indexing import same_rows, taken, taken_beside, taken_by_tuples
from clockwork.runtimes.rows.moves import (
    along,
    axis_of,
    dropped,
    expanded,
    inserted,
    joined,
    reshaped,
    transposed,
)
from clockwork.runtimes.rows.size import ONE, N, Size, at_most, number, product
from clockwork.runtimes.rows.value import ACROSS, COUNTS, MixesRowsError, UnknownRowsError, Value, across

FAR: Final = 10**9
"""A slice that ends there, or further, ends with the axis: no tensor is so long."""


@rule("Shape")
def shape(node: Node) -> Sequence[Value]:
    """The sizes, as the content of a tensor."""
    sizes = node.of(0).shape[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
    content = np.empty(len(sizes), object)
    content[:] = [it if it.value is None else it.value for it in sizes]
    return [Value((number(len(sizes)),), content=content)]


@rule("Size")
def size(node: Node) -> Sequence[Value]:
    """The number of elements, as the content of a tensor."""
    total = node.of(0).elements
    content = np.empty((), object)
    content[()] = total if total.value is None else total.value
    return [Value((), content=content)]


@rule("Reshape")
def reshape(node: Node) -> Sequence[Value]:
    """To sizes, of which -1 is what is left, and 0 the input's."""
    x = node.value(0)
    if "shape" not in node.attributes and node.of(1).content is None and x.rows is None and node.of(1).rows is None:
        length = node.of(1).shape[0].value
        if length is None:
            raise UnknownRowsError("gives a number of dimensions that is not known")
        return [Value(tuple(node.unknown_size(i) for i in range(length)))]
    wanted = node.parameters("shape", 1) or []
    return [reshaped(x, target(x, wanted, bool(node.attributes.get("allowzero", 0))))]


def target(x: Value, wanted: Sequence[Any], zeros: bool = False) -> tuple[Size, ...]:
    """The shape that a reshape asks for; ``zeros``: 0 is a size, not the input's own."""
    sizes: list[Size | None] = []
    for i, it in enumerate(wanted):
        if not isinstance(it, Size) and int(it) == -1:
            sizes.append(None)
        elif not zeros and not isinstance(it, Size) and int(it) == 0:
            if i >= x.rank:
                raise UnknownRowsError(f"keeps dimension {i} of {x.rank}")
            sizes.append(x.shape[i])
        else:
            sizes.append(as_size(it))
    if None not in sizes:
        return tuple(it for it in sizes if it is not None)
    left = x.elements.divided(product(it for it in sizes if it is not None))
    if left is None:
        raise UnknownRowsError("gives a dimension whose size is not known")
    return tuple(left if it is None else it for it in sizes)


@rule("Flatten")
def flatten(node: Node) -> Sequence[Value]:
    """To two dimensions."""
    x = node.value(0)
    axis = int(node.attributes.get("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    return [reshaped(x, (product(x.shape[:axis]), product(x.shape[axis:])))]


@rule("Transpose")
def transpose(node: Node) -> Sequence[Value]:
    """The axes in another order, or in the reverse."""
    x = node.value(0)
    return [transposed(x, list(node.attributes.get("perm", reversed(range(x.rank)))))]


@rule("Squeeze")
def squeeze(node: Node) -> Sequence[Value]:
    """Without axes of size 1: given ones, or all."""
    x = node.value(0)
    axes = node.axes(x.rank)
    if axes is None:
        if x.rows is not None:
            raise MixesRowsError(f"{COUNTS}: it drops their axis where there is one row")
        if any(it.value is None for it in x.shape):
            raise UnknownRowsError("drops axes whose sizes are not known")
        axes = tuple(i for i, it in enumerate(x.shape) if it == ONE)
    return [dropped(x, axes)]


@rule("Unsqueeze")
def unsqueeze(node: Node) -> Sequence[Value]:
    """With new axes of size 1."""
    x = node.value(0)
    found = node.parameters("axes", 1) or []
    rank = x.rank + len(found)
    return [inserted(x, [axis_of(whole(it), rank) for it in found])]


@rule("Expand")
def expand(node: Node) -> Sequence[Value]:
    """Repeated along axes of size 1."""
    x = node.value(0)
    return [expanded(x, tuple(as_size(it) for it in node.numbers(1)), node.out)]


@rule("ConstantOfShape")
def constant_of_shape(node: Node) -> Sequence[Value]:
    """One number, of a shape."""
    return [expanded(Value(()), tuple(as_size(it) for it in node.numbers(0)), node.out)]


@rule("EyeLike")
def eye_like(node: Node) -> Sequence[Value]:
    """Of the shape of the input, whose elements do not matter."""
    x = node.of(0)
    if x.rows is not None:
        raise MixesRowsError(f"{ACROSS}: it depends on a row's place in the batch")
    return [Value(x.shape)]


@rule("Range")
def numbers(node: Node) -> Sequence[Value]:
    """Consecutive numbers."""
    values = [node.of(i) for i in range(3)]
    if any(it.counts_rows for it in values):
        raise MixesRowsError(f"{COUNTS}: it gives each row's place in the batch")
    if any(it.rows is not None for it in values):
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on them")
    start, limit, step = (None if it.content is None else it.content.flat[0] for it in values)
    counts = limit is not None and start == 0 and step == 1
    return [Value((as_size(limit) if counts else node.unknown_size(0),))]


@rule("Tile")
def tile(node: Node) -> Sequence[Value]:
    """Repeated along each axis."""
    x = node.value(0)
    repeats = [as_size(it) for it in node.numbers(1)]
    if len(repeats) != x.rank:
        raise UnknownRowsError(f"repeats {len(repeats)} axes of {x.rank}")
    if x.rows is not None:
        if repeats[x.rows] != ONE:
            raise across(x)
    elif found := [i for i, it in enumerate(repeats) if it.depends]:
        (axis,) = found if len(found) == 1 else (-1,)
        if axis < 0 or repeats[axis] != N:
            raise MixesRowsError(COUNTS)
        sizes = tuple(a * b for a, b in zip(x.shape, repeats, strict=True))
        return [Value(sizes, axis, x.shape[axis])]
    return [Value(tuple(a * b for a, b in zip(x.shape, repeats, strict=True)), x.rows, x.inner)]


@rule("Concat", "com.microsoft.QLinearConcat")
def concat(node: Node) -> Sequence[Value]:
    """One after another; the quantised one has a scale and a zero point after each tensor, and its own before all."""
    values = node.given()
    if "QLinear" in node.operator:
        values = [node.value(at) for at in range(2, len(node.inputs), 3)]
        if any(node.of(at).rows is not None for at in range(len(node.inputs)) if at < 2 or at % 3 != 2):
            raise UnknownRowsError("has a scale that is computed from rows")
    return [joined(values, node.axis(values[0].rank, 1), node.out)]


@rule("Split")
def split(node: Node) -> Sequence[Value]:
    """Parts of an axis."""
    x = node.value(0)
    axis = node.axis(x.rank, 0)
    if x.rows == axis:
        raise across(x)
    parts = node.parameters("split", 1)
    if parts is None:
        part = x.shape[axis].divided(number(len(node.outputs)))
        return [along(x, (axis,), {axis: part or node.unknown_size(f"{axis}.{i}")}) for i in range(len(node.outputs))]
    return [along(x, (axis,), {axis: as_size(it)}) for it in parts]


@rule("Slice")
def cut(node: Node) -> Sequence[Value]:
    """Ranges of axes. One that takes all rows, from 0 to their number or beyond, takes what was there."""
    x = node.value(0)
    starts, ends = node.parameters("starts", 1), node.parameters("ends", 2)
    assert starts is not None
    assert ends is not None
    given = node.parameters("axes", 3)
    axes = [axis_of(whole(it), x.rank) for it in (range(len(starts)) if given is None else given)]
    steps = node.parameters("steps", 4) or [1] * len(starts)
    sizes: dict[int, Size] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        whole_axis = start == 0 and step == 1 and (_far(end) or end == x.shape[axis])
        if x.rows == axis and not whole_axis:
            raise across(x)
        if x.rows != axis and any(isinstance(it, Size) and it.depends for it in (start, end, step)):
            raise MixesRowsError(COUNTS)
        if not whole_axis:
            sizes[axis] = _cut(x.shape[axis], start, end, step) or node.unknown_size(axis)
    return [along(x, sizes, sizes)]


def _far(end: Any) -> bool:
    return not isinstance(end, Size) and end >= FAR


def _cut(length: Size, start: Any, end: Any, step: Any) -> Size | None:
    """The size of a slice, or None if it is not known."""
    if start == 0 and step == 1 and isinstance(end, Size) and not end.depends:
        return at_most(length, end)
    known = length.value
    if known is None or any(isinstance(it, Size) for it in (start, end, step)):
        return None
    return number(len(range(*slice(int(start), int(end), int(step)).indices(known))))


@rule("Pad")
def pad(node: Node) -> Sequence[Value]:
    """More elements before and after those of an axis."""
    x = node.value(0)
    if node.has(2) and node.value(2).rows is not None:
        raise MixesRowsError(f"{ACROSS}: it takes the number that it pads with from them")
    name = "pads" if "pads" in node.attributes else "paddings"
    amounts = node.parameters(name, 1) or []
    axes = [axis_of(whole(it), x.rank) for it in node.numbers(3)] if node.has(3) else list(range(x.rank))
    sizes = {}
    for i, axis in enumerate(axes):
        begin, end = as_size(amounts[i]), as_size(amounts[i + len(axes)])
        if begin != number(0) or end != number(0):
            sizes[axis] = x.shape[axis] + begin + end
    return [along(x, sizes, sizes)]


@rule("Gather")
def gather(node: Node) -> Sequence[Value]:
    """Elements of an axis."""
    data, indices = node.value(0), node.value(1)
    return [taken(data, indices, node.axis(data.rank, 0))]


@rule("ai.onnx.ml.ArrayFeatureExtractor")
def features(node: Node) -> Sequence[Value]:
    """Elements of the last axis, by a list of numbers."""
    data, indices = node.value(0), node.value(1)
    if indices.rows is not None or data.rank < 2:
        raise MixesRowsError(f"{ACROSS}: it takes elements by their place in the batch")
    return [along(data, (data.rank - 1,), {data.rank - 1: indices.elements})]


@rule("GatherElements")
def gather_elements(node: Node) -> Sequence[Value]:
    """Elements of an axis, of the same place of the others."""
    data, indices = node.value(0), node.value(1)
    return [taken_beside(data, indices, node.axis(data.rank, 0))]


@rule("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Sequence[Value]:
    """Elements written at numbers of an axis, at the same place of the others."""
    data, indices, updates = node.value(0), node.value(1), node.value(2)
    same_rows(data, indices, updates, axis=node.axis(data.rank, 0))
    return [Value(data.shape, data.rows, data.inner)]


@rule("GatherND")
def gather_nd(node: Node) -> Sequence[Value]:
    """Elements by tuples of numbers."""
    data, indices = node.value(0), node.value(1)
    length = indices.shape[-1].value
    if length is None:
        raise UnknownRowsError("takes elements by tuples whose length is not known")
    return [taken_by_tuples(data, indices, int(node.attributes.get("batch_dims", 0)), length)]


@rule("ScatterND")
def scatter_nd(node: Node) -> Sequence[Value]:
    """Elements written by tuples of numbers, which have a row's place in them where rows are written to."""
    values = node.given()
    if any(it.rows is not None for it in values):
        raise MixesRowsError(f"{ACROSS}: it writes elements by their place in the batch")
    return [Value(values[0].shape)]
