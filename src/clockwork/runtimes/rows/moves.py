"""Rules for operators that move elements, compute each element separately, or compute along axes."""

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
    """Return the axis counted from the front.

    Raises:
        UnknownRowsError: the tensor has no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise UnknownRowsError(f"has an axis {axis}, of a tensor with {rank} dimensions")
    return axis % rank if rank else 0


def check_no_rows(*values: Value) -> None:
    """Check that these tensors, such as weights, are the same in every batch.

    Raises:
        MixesRowsError: a tensor has a batch axis.
    """
    for value in values:
        if value.batch_axis is not None:
            raise MixesRowsError("takes a parameter for the whole batch from its rows")


def broadcast(values: Sequence[Value], name: str = "") -> Value:
    """Rule of elementwise operators, which broadcast axes of size 1.

    ``name`` makes the names of unknown sizes unique.
    """
    rank = max(tensor.rank for tensor in values)
    with_rows = [tensor for tensor in values if tensor.batch_axis is not None]
    places = {
        (tensor.axis_from_end, tensor.inner, tensor.shape[tensor.batch_axis])
        for tensor in with_rows
        if tensor.batch_axis is not None
    }
    if len(places) > 1:
        raise MixesRowsError(f"{ACROSS}: its inputs have different batch axes")
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
    """Return the size of an axis after broadcasting. All sizes of the axis other than 1 must be equal."""
    if len(sizes) <= 1:
        return next(iter(sizes), ONE)
    known = [size for size in sizes if size.value is not None]
    if known:
        return known[0]
    for size in sizes:
        # A table that is cut to length L has min(size, L) rows. If such a tensor broadcasts with L rows, it has L rows
        # or one row.
        if all(
            other == size or (str(other.terms[0][0][0]).endswith(f",{size!r})") and _is_minimum(other))
            for other in sizes
        ):
            return size
    return opaque(text)


def _is_minimum(size: Size) -> bool:
    return size.is_opaque and size.terms[0][0][0].startswith(f"{OPAQUE}min(")


def along(value: Value, axes: Collection[int], sizes: Mapping[int, Size] | None = None) -> Value:
    """Rule of operators that compute only along ``axes``. ``sizes`` maps axes to their new sizes.

    Raises:
        MixesRowsError: one of the axes is the batch axis.
    """
    if value.batch_axis in axes:
        raise across_error(value)
    changed = sizes or {}
    return Value(tuple(changed.get(i, size) for i, size in enumerate(value.shape)), value.batch_axis, value.inner)


def reduced(value: Value, axes: Collection[int], keep: bool) -> Value:
    """Rule of operators that reduce ``axes`` to one element. If ``keep`` is true, the axes stay, with size 1."""
    kept = along(value, axes, dict.fromkeys(axes, ONE))
    return kept if keep else squeezed(kept, axes)


def squeezed(value: Value, axes: Collection[int]) -> Value:
    """Rule of operators that remove axes of size 1."""
    if value.batch_axis in axes:
        raise across_error(value)
    left = [i for i in range(value.rank) if i not in axes]
    rows = None if value.batch_axis is None else left.index(value.batch_axis)
    return Value(tuple(value.shape[i] for i in left), rows, value.inner)


def unsqueezed(value: Value, axes: Collection[int]) -> Value:
    """Rule of operators that add axes of size 1. ``axes`` contains the positions of these axes in the result."""
    rank = value.rank + len(axes)
    old = iter(range(value.rank))
    order = [None if i in axes else next(old) for i in range(rank)]
    rows = None if value.batch_axis is None else order.index(value.batch_axis)
    return Value(tuple(ONE if i is None else value.shape[i] for i in order), rows, value.inner)


def transposed(value: Value, order: Sequence[int]) -> Value:
    """Rule of operators that reorder axes."""
    if sorted(order) != list(range(value.rank)):
        raise UnknownRowsError(f"orders {value.rank} axes as {list(order)}")
    rows = None if value.batch_axis is None else list(order).index(value.batch_axis)
    return Value(tuple(value.shape[i] for i in order), rows, value.inner)


def reshaped(value: Value, shape: Shape) -> Value:
    """Rule of operators that change the shape, but neither the elements nor their order.

    The position of an element in memory determines the element's row: ``(position // below) % N``. Here, ``below`` is
    the number of consecutive elements of one row. So the new batch axis is the axis whose size has the factor N. The
    inner size of this axis is computed from ``below``, or from the number of times that all rows are repeated. Either
    number is enough, because both shapes have the same number of elements.
    """
    if value.batch_axis is None:
        if any(size.depends_on_rows for size in shape):
            raise MixesRowsError(f"{COUNTS}: it repeats a constant for each row")
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
    text = f"reshapes {_shown(value.shape)} to {_shown(shape)}"
    if all(len(size.terms) == 1 and set(size.terms[0][0]) <= set(N.terms[0][0]) for size in sizes):
        return MixesRowsError(f"{ACROSS}: it {text}")
    return UnknownRowsError(f"{text}, in which the rows cannot be found")


def _shown(shape: Shape) -> str:
    return "[" + ", ".join(map(repr, shape)).replace("#", "N") + "]"


def expanded(value: Value, shape: Shape, name: str = "") -> Value:
    """Rule of operators that broadcast to ``shape``.

    Such operators repeat axes of size 1, and add axes at the front.
    """
    found = [i for i, size in enumerate(shape) if size.depends_on_rows]
    if not found:
        return broadcast([value, Value(shape)], name)
    if len(found) > 1:
        raise MixesRowsError(f"{COUNTS}: {_shown(shape)} contains it twice")
    place = len(shape) - 1 - found[0]
    if value.batch_axis is None:
        if shape[found[0]] != N:
            raise UnknownRowsError(f"repeats a constant to {_shown(shape)}")
        return broadcast([value, Value(shape, found[0])], name)
    if value.axis_from_end != place or value.shape[value.batch_axis] != shape[found[0]]:
        raise MixesRowsError(f"{ACROSS}: it repeats {_shown(value.shape)} to {_shown(shape)}")
    return broadcast([value, Value(shape, found[0], value.inner)], name)


def concatenated(values: Sequence[Value], axis: int, name: str = "") -> Value:
    """Rule of operators that concatenate tensors along an axis."""
    rank = max(tensor.rank for tensor in values)
    if any(tensor.rank != rank for tensor in values):
        raise UnknownRowsError("concatenates tensors of different ranks")
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
            raise MixesRowsError(f"{ACROSS}: it concatenates row i with row i of a constant")
    whole = broadcast(others, name)
    total = values[0].shape[axis]
    for tensor in values[1:]:
        total = total + tensor.shape[axis]
    return along(whole, (axis,), {axis: total})


def _one_axis(values: Sequence[Value]) -> bool:
    return len({tensor.batch_axis for tensor in values if tensor.batch_axis is not None}) == 1
