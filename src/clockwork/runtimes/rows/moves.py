"""Rules for operators that move elements, or compute on each element, or along axes."""

from collections.abc import Collection, Mapping, Sequence

from clockwork.runtimes.rows.size import ONE, OPAQUE, N, Size, opaque, product
from clockwork.runtimes.rows.value import (
    ACROSS,
    COUNTS,
    MixesRowsError,
    Shape,
    UnknownRowsError,
    Value,
    across_error,
)


def axis_of(axis: int, rank: int) -> int:
    """The axis as a number from 0.

    Raises:
        UnknownRowsError: there is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise UnknownRowsError(f"has an axis {axis}, of a tensor with {rank} dimensions")
    return axis % rank if rank else 0


def check_no_rows(*values: Value) -> None:
    """Check that the tensors are the same for every batch; they are weights, or parameters of the operator.

    Raises:
        MixesRowsError: a tensor has rows.
    """
    for value in values:
        if value.batch_axis is not None:
            raise MixesRowsError("takes a parameter from the rows of the batch, for the whole of the batch")


def broadcast(values: Sequence[Value], name: str = "") -> Value:
    """Each element from the elements at its place; sizes of 1 are repeated. ``name`` tells unknown sizes apart."""
    rank = max(tensor.rank for tensor in values)
    with_rows = [tensor for tensor in values if tensor.batch_axis is not None]
    places = {
        (tensor.axis_from_end, tensor.inner, tensor.shape[tensor.batch_axis])
        for tensor in with_rows
        if tensor.batch_axis is not None
    }
    if len(places) > 1:
        raise MixesRowsError(f"{ACROSS}: they lie along different axes of its inputs")
    place = with_rows[0].axis_from_end if with_rows else None
    shape: list[Size] = []
    for back in reversed(range(rank)):
        sizes = {tensor.shape[tensor.rank - 1 - back] for tensor in values if tensor.rank > back} - {ONE}
        if back == place:
            fixed = [
                tensor
                for tensor in values
                if tensor.batch_axis is None and tensor.rank > back and tensor.shape[tensor.rank - 1 - back] != ONE
            ]
            if fixed:
                raise MixesRowsError(f"{ACROSS}: it combines row i with row i of a constant")
        shape.append(_common(sizes, f"{name}.{back}"))
    if place is None:
        return Value(tuple(shape))
    return Value(tuple(shape), rank - 1 - place, with_rows[0].inner)


def _common(sizes: Collection[Size], text: str) -> Size:
    """The size that sizes other than 1 are broadcast to."""
    if len(sizes) <= 1:
        return next(iter(sizes), ONE)
    known = [size for size in sizes if size.value is not None]
    if known:
        return known[0]
    for size in sizes:
        # A table that is cut to the length L has min(size, L) rows: that is L, or 1, where it goes together with L.
        if all(
            other == size or (str(other.terms[0][0][0]).endswith(f",{size!r})") and _is_minimum(other))
            for other in sizes
        ):
            return size
    return opaque(text)


def _is_minimum(size: Size) -> bool:
    return size.is_opaque and size.terms[0][0][0].startswith(f"{OPAQUE}min(")


def along(value: Value, axes: Collection[int], sizes: Mapping[int, Size] | None = None) -> Value:
    """An operator that computes along ``axes``, and on each place of the others by itself; ``sizes`` are new ones.

    Raises:
        MixesRowsError: the rows lie along one of the axes.
    """
    if value.batch_axis in axes:
        raise across_error(value)
    changed = sizes or {}
    return Value(tuple(changed.get(i, size) for i, size in enumerate(value.shape)), value.batch_axis, value.inner)


def reduced(value: Value, axes: Collection[int], keep: bool) -> Value:
    """An operator that leaves one element of ``axes``, and the axes themselves where ``keep``."""
    kept = along(value, axes, dict.fromkeys(axes, ONE))
    return kept if keep else squeezed(kept, axes)


def squeezed(value: Value, axes: Collection[int]) -> Value:
    """Without axes, of a size of 1 each."""
    if value.batch_axis in axes:
        raise across_error(value)
    left = [i for i in range(value.rank) if i not in axes]
    rows = None if value.batch_axis is None else left.index(value.batch_axis)
    return Value(tuple(value.shape[i] for i in left), rows, value.inner)


def unsqueezed(value: Value, axes: Collection[int]) -> Value:
    """With new axes of a size of 1, at these places of the result."""
    rank = value.rank + len(axes)
    old = iter(range(value.rank))
    order = [None if i in axes else next(old) for i in range(rank)]
    rows = None if value.batch_axis is None else order.index(value.batch_axis)
    return Value(tuple(ONE if i is None else value.shape[i] for i in order), rows, value.inner)


def transposed(value: Value, order: Sequence[int]) -> Value:
    """The axes in another order."""
    if sorted(order) != list(range(value.rank)):
        raise UnknownRowsError(f"orders {value.rank} axes as {list(order)}")
    rows = None if value.batch_axis is None else list(order).index(value.batch_axis)
    return Value(tuple(value.shape[i] for i in order), rows, value.inner)


def reshaped(value: Value, shape: Shape) -> Value:
    """The same elements in the same order, with another shape.

    The place of an element in memory tells its row: ``(place // below) % N``, where ``below`` counts the elements of
    one row that lie together. So the rows are found again in the axis of the new shape that N is a factor of. ``above``
    counts how often all rows come; either number is enough, because a model refuses shapes that are not equally large.
    """
    if value.batch_axis is None:
        if any(size.depends_on_rows for size in shape):
            raise MixesRowsError(f"{COUNTS}: it gives a constant that many rows")
        return Value(shape)
    found = [i for i, size in enumerate(shape) if size.depends_on_rows]
    if len(found) != 1:
        raise _no_place(value, shape)
    (axis,) = found
    old = value.shape[value.batch_axis].divided(N * value.inner)
    below = value.inner * product(value.shape[value.batch_axis + 1 :])
    inner = below.divided(product(shape[axis + 1 :]))
    outer = None if inner is None else shape[axis].divided(N * inner)
    if outer is None and old is not None:
        outer = (product(value.shape[: value.batch_axis]) * old).divided(product(shape[:axis]))
        inner = None if outer is None else shape[axis].divided(N * outer)
    if inner is None or outer is None or outer.depends_on_rows or inner.depends_on_rows:
        raise _no_place(value, shape)
    return Value(shape, axis, inner)


def _no_place(value: Value, shape: Shape) -> Exception:
    sizes = [*shape, *value.shape]
    text = f"puts {_shown(value.shape)} into the shape {_shown(shape)}"
    if all(len(size.terms) == 1 and set(size.terms[0][0]) <= set(N.terms[0][0]) for size in sizes):
        return MixesRowsError(f"{ACROSS}: it {text}")
    return UnknownRowsError(f"{text}, and where the rows lie then is not known")


def _shown(shape: Shape) -> str:
    return "[" + ", ".join(map(repr, shape)).replace("#", "N") + "]"


def expanded(value: Value, shape: Shape, name: str = "") -> Value:
    """Repeated along axes of a size of 1, and along new axes before them, to be broadcast with ``shape``."""
    found = [i for i, size in enumerate(shape) if size.depends_on_rows]
    if not found:
        return broadcast([value, Value(shape)], name)
    if len(found) > 1:
        raise MixesRowsError(f"{COUNTS}: {_shown(shape)} has it twice")
    place = len(shape) - 1 - found[0]
    if value.batch_axis is None:
        if shape[found[0]] != N:
            raise UnknownRowsError(f"repeats a constant to {_shown(shape)}")
        return broadcast([value, Value(shape, found[0])], name)
    if value.axis_from_end != place or value.shape[value.batch_axis] != shape[found[0]]:
        raise MixesRowsError(f"{ACROSS}: it repeats {_shown(value.shape)} to {_shown(shape)}")
    return broadcast([value, Value(shape, found[0], value.inner)], name)


def concatenated(values: Sequence[Value], axis: int, name: str = "") -> Value:
    """Tensors one after another along an axis."""
    rank = max(tensor.rank for tensor in values)
    if any(tensor.rank != rank for tensor in values):
        raise UnknownRowsError("joins tensors of different ranks")
    for tensor in values:
        if tensor.batch_axis == axis:
            raise across_error(tensor)
    others = [
        Value(tuple(ONE if i == axis else s for i, s in enumerate(tensor.shape)), tensor.batch_axis, tensor.inner)
        for tensor in values
    ]
    if any(tensor.batch_axis is not None for tensor in values):
        (rows,) = (
            {tensor.batch_axis for tensor in values if tensor.batch_axis is not None} if _one_axis(values) else (None,)
        )
        if rows is None or any(tensor.batch_axis is None for tensor in values):
            raise MixesRowsError(f"{ACROSS}: it puts row i beside row i of a constant")
    whole = broadcast(others, name)
    total = values[0].shape[axis]
    for tensor in values[1:]:
        total = total + tensor.shape[axis]
    return along(whole, (axis,), {axis: total})


def _one_axis(values: Sequence[Value]) -> bool:
    return len({tensor.batch_axis for tensor in values if tensor.batch_axis is not None}) == 1
