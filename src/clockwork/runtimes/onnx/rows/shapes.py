"""Rules for operators that move elements: reshaping, slicing, concatenating, indexing."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from clockwork.runtimes.onnx.rows.node import Node, as_int, as_size, rule
from clockwork.runtimes.rows.indexing import gathered, gathered_elements, gathered_nd, same_rows
from clockwork.runtimes.rows.moves import (
    along,
    axis_of,
    concatenated,
    expanded,
    reshaped,
    squeezed,
    transposed,
    unsqueezed,
)
from clockwork.runtimes.rows.size import ONE, N, Size, at_most, number, product
from clockwork.runtimes.rows.value import ACROSS, COUNTS, MixesRowsError, UnknownRowsError, Value, across_error

MIN_UNLIMITED_END: Final = 10**9
"""A slice whose end is at least this number includes the rest of the axis, because no axis is that long."""


@rule("Shape")
def shape(node: Node) -> Sequence[Value]:
    """Rule of Shape, which returns the sizes as a tensor with known elements."""
    sizes = node.input(0).shape[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
    content = np.empty(len(sizes), object)
    content[:] = [size if size.value is None else size.value for size in sizes]
    return [Value((number(len(sizes)),), content=content)]


@rule("Size")
def size(node: Node) -> Sequence[Value]:
    """Rule of Size, which returns the number of elements as a tensor with a known element."""
    total = node.input(0).elements
    content = np.empty((), object)
    content[()] = total if total.value is None else total.value
    return [Value((), content=content)]


@rule("Reshape")
def reshape(node: Node) -> Sequence[Value]:
    """Rule of Reshape. In the new shape, -1 means the remaining size, and 0 means the input's size of the same axis."""
    x = node.value(0)
    if (
        "shape" not in node.attributes
        and node.input(1).content is None
        and x.batch_axis is None
        and node.input(1).batch_axis is None
    ):
        length = node.input(1).shape[0].value
        if length is None:
            raise UnknownRowsError("has an output with an unknown number of dimensions")
        return [Value(tuple(node.unknown_size(i) for i in range(length)))]
    wanted = node.parameters("shape", 1) or []
    return [reshaped(x, reshape_target(x, wanted, bool(node.attributes.get("allowzero", 0))))]


def reshape_target(x: Value, wanted: Sequence[Any], zeros: bool = False) -> tuple[Size, ...]:
    """Return the shape after a Reshape to ``wanted``. If ``zeros`` is true, 0 means size 0 and not the input's size."""
    sizes: list[Size | None] = []
    for i, size in enumerate(wanted):
        if not isinstance(size, Size) and int(size) == -1:
            sizes.append(None)
        elif not zeros and not isinstance(size, Size) and int(size) == 0:
            if i >= x.rank:
                raise UnknownRowsError(f"keeps dimension {i} of {x.rank}")
            sizes.append(x.shape[i])
        else:
            sizes.append(as_size(size))
    if None not in sizes:
        return tuple(size for size in sizes if size is not None)
    left = x.elements.divided(product(size for size in sizes if size is not None))
    if left is None:
        raise UnknownRowsError("has an output with a dimension of unknown size")
    return tuple(left if size is None else size for size in sizes)


@rule("Flatten")
def flatten(node: Node) -> Sequence[Value]:
    """Rule of Flatten, which reshapes to two dimensions."""
    x = node.value(0)
    axis = int(node.attributes.get("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    return [reshaped(x, (product(x.shape[:axis]), product(x.shape[axis:])))]


@rule("Transpose")
def transpose(node: Node) -> Sequence[Value]:
    """Rule of Transpose, which reorders the axes or, by default, reverses their order."""
    x = node.value(0)
    return [transposed(x, list(node.attributes.get("perm", reversed(range(x.rank)))))]


@rule("Squeeze")
def squeeze(node: Node) -> Sequence[Value]:
    """Rule of Squeeze, which removes the given axes, or all axes of size 1."""
    x = node.value(0)
    axes = node.axes(x.rank)
    if axes is None:
        if x.batch_axis is not None:
            raise MixesRowsError(f"{COUNTS}: it removes the batch axis of a single row")
        if any(size.value is None for size in x.shape):
            raise UnknownRowsError("removes axes whose sizes are not known")
        axes = tuple(i for i, size in enumerate(x.shape) if size == ONE)
    return [squeezed(x, axes)]


@rule("Unsqueeze")
def unsqueeze(node: Node) -> Sequence[Value]:
    """Rule of Unsqueeze, which adds axes of size 1."""
    x = node.value(0)
    found = node.parameters("axes", 1) or []
    rank = x.rank + len(found)
    return [unsqueezed(x, [axis_of(as_int(axis), rank) for axis in found])]


@rule("Expand")
def expand(node: Node) -> Sequence[Value]:
    """Rule of Expand, which repeats the tensor along axes of size 1."""
    x = node.value(0)
    return [expanded(x, tuple(as_size(size) for size in node.numbers(1)), node.out)]


@rule("ConstantOfShape")
def constant_of_shape(node: Node) -> Sequence[Value]:
    """Rule of ConstantOfShape, which returns a tensor that is filled with one number."""
    return [expanded(Value(()), tuple(as_size(size) for size in node.numbers(0)), node.out)]


@rule("EyeLike")
def eye_like(node: Node) -> Sequence[Value]:
    """Rule of EyeLike, which returns an identity matrix. Only the shape of the input matters."""
    x = node.input(0)
    if x.batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: it depends on the position of a row in the batch")
    return [Value(x.shape)]


@rule("Range")
def numbers(node: Node) -> Sequence[Value]:
    """Rule of Range, which returns consecutive numbers."""
    values = [node.input(i) for i in range(3)]
    if any(tensor.depends_on_batch_size for tensor in values):
        raise MixesRowsError(f"{COUNTS}: it computes the position of each row in the batch")
    if any(tensor.batch_axis is not None for tensor in values):
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on all rows")
    start, limit, step = (None if tensor.content is None else tensor.content.flat[0] for tensor in values)
    counts = limit is not None and start == 0 and step == 1
    return [Value((as_size(limit) if counts else node.unknown_size(0),))]


@rule("Tile")
def tile(node: Node) -> Sequence[Value]:
    """Rule of Tile, which repeats the tensor along each axis."""
    x = node.value(0)
    repeats = [as_size(repeat) for repeat in node.numbers(1)]
    if len(repeats) != x.rank:
        raise UnknownRowsError(f"repeats {len(repeats)} axes of {x.rank}")
    if x.batch_axis is not None:
        if repeats[x.batch_axis] != ONE:
            raise across_error(x)
    elif found := [i for i, repeat in enumerate(repeats) if repeat.depends_on_rows]:
        (axis,) = found if len(found) == 1 else (-1,)
        if axis < 0 or repeats[axis] != N:
            raise MixesRowsError(COUNTS)
        sizes = tuple(a * b for a, b in zip(x.shape, repeats, strict=True))
        return [Value(sizes, axis, x.shape[axis])]
    return [Value(tuple(a * b for a, b in zip(x.shape, repeats, strict=True)), x.batch_axis, x.inner)]


@rule("Concat", "com.microsoft.QLinearConcat")
def concat(node: Node) -> Sequence[Value]:
    """Rule of Concat.

    The first inputs of QLinearConcat are the scale and zero point of the result. The scale and zero point of each
    tensor follow the tensor.
    """
    values = node.values()
    if "QLinear" in node.operator:
        values = [node.value(at) for at in range(2, len(node.inputs), 3)]
        if any(node.input(at).batch_axis is not None for at in range(len(node.inputs)) if at < 2 or at % 3 != 2):
            raise UnknownRowsError("has a scale that is computed from rows")
    return [concatenated(values, node.axis(values[0].rank, 1), node.out)]


@rule("Split")
def split(node: Node) -> Sequence[Value]:
    """Rule of Split, which splits an axis."""
    x = node.value(0)
    axis = node.axis(x.rank, 0)
    if x.batch_axis == axis:
        raise across_error(x)
    parts = node.parameters("split", 1)
    if parts is None:
        part = x.shape[axis].divided(number(len(node.outputs)))
        return [along(x, (axis,), {axis: part or node.unknown_size(f"{axis}.{i}")}) for i in range(len(node.outputs))]
    return [along(x, (axis,), {axis: as_size(size)}) for size in parts]


@rule("Slice")
def slice_axes(node: Node) -> Sequence[Value]:
    """Rule of Slice, which takes ranges of axes.

    A range of the batch axis must include all rows: it starts at 0 and ends at the number of rows or later.
    """
    x = node.value(0)
    starts, ends = node.parameters("starts", 1), node.parameters("ends", 2)
    assert starts is not None
    assert ends is not None
    given = node.parameters("axes", 3)
    axes = [axis_of(as_int(tensor), x.rank) for tensor in (range(len(starts)) if given is None else given)]
    steps = node.parameters("steps", 4) or [1] * len(starts)
    sizes: dict[int, Size] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        whole_axis = start == 0 and step == 1 and (_is_unlimited(end) or end == x.shape[axis])
        if x.batch_axis == axis and not whole_axis:
            raise across_error(x)
        if x.batch_axis != axis and any(
            isinstance(bound, Size) and bound.depends_on_rows for bound in (start, end, step)
        ):
            raise MixesRowsError(COUNTS)
        if not whole_axis:
            sizes[axis] = _slice_size(x.shape[axis], start, end, step) or node.unknown_size(axis)
    return [along(x, sizes, sizes)]


def _is_unlimited(end: Any) -> bool:
    return not isinstance(end, Size) and end >= MIN_UNLIMITED_END


def _slice_size(length: Size, start: Any, end: Any, step: Any) -> Size | None:
    """Return the size of a slice, or None if it is not known."""
    if start == 0 and step == 1 and isinstance(end, Size) and not end.depends_on_rows:
        return at_most(length, end)
    known = length.value
    if known is None or any(isinstance(bound, Size) for bound in (start, end, step)):
        return None
    return number(len(range(*slice(int(start), int(end), int(step)).indices(known))))


@rule("Pad")
def pad(node: Node) -> Sequence[Value]:
    """Rule of Pad, which adds elements at the beginning and end of axes."""
    x = node.value(0)
    if node.has(2) and node.value(2).batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: it takes the padding value from the rows")
    name = "pads" if "pads" in node.attributes else "paddings"
    amounts = node.parameters(name, 1) or []
    axes = [axis_of(as_int(axis), x.rank) for axis in node.numbers(3)] if node.has(3) else list(range(x.rank))
    sizes = {}
    for i, axis in enumerate(axes):
        begin, end = as_size(amounts[i]), as_size(amounts[i + len(axes)])
        if begin != number(0) or end != number(0):
            sizes[axis] = x.shape[axis] + begin + end
    return [along(x, sizes, sizes)]


@rule("Gather")
def gather(node: Node) -> Sequence[Value]:
    """Rule of Gather, which selects elements along an axis."""
    data, indices = node.value(0), node.value(1)
    return [gathered(data, indices, node.axis(data.rank, 0))]


@rule("ai.onnx.ml.ArrayFeatureExtractor")
def features(node: Node) -> Sequence[Value]:
    """Rule of ArrayFeatureExtractor, which selects elements along the last axis by a list of indices."""
    data, indices = node.value(0), node.value(1)
    if indices.batch_axis is not None or data.rank < 2:
        raise MixesRowsError(f"{ACROSS}: it selects elements by their position in the batch")
    return [along(data, (data.rank - 1,), {data.rank - 1: indices.elements})]


@rule("GatherElements")
def gather_elements(node: Node) -> Sequence[Value]:
    """Rule of GatherElements. Each index replaces the element's coordinate on one axis."""
    data, indices = node.value(0), node.value(1)
    return [gathered_elements(data, indices, node.axis(data.rank, 0))]


@rule("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Sequence[Value]:
    """Rule of ScatterElements.

    Each index replaces, on one axis, the coordinate at which an element is written.
    """
    data, indices, updates = node.value(0), node.value(1), node.value(2)
    same_rows(data, indices, updates, axis=node.axis(data.rank, 0))
    return [Value(data.shape, data.batch_axis, data.inner)]


@rule("GatherND")
def gather_nd(node: Node) -> Sequence[Value]:
    """Rule of GatherND, which selects elements by tuples of indices."""
    data, indices = node.value(0), node.value(1)
    length = indices.shape[-1].value
    if length is None:
        raise UnknownRowsError("selects elements by tuples of unknown length")
    return [gathered_nd(data, indices, int(node.attributes.get("batch_dims", 0)), length)]


@rule("ScatterND")
def scatter_nd(node: Node) -> Sequence[Value]:
    """Rule of ScatterND, which writes elements by tuples of indices.

    A tuple that writes to a row contains the row's position in the batch, so such a model mixes rows.
    """
    values = node.values()
    if any(tensor.batch_axis is not None for tensor in values):
        raise MixesRowsError(f"{ACROSS}: it writes elements by their position in the batch")
    return [Value(values[0].shape)]
