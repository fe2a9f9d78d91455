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
    across,
)


def axis_of(axis: int, rank: int) -> int:
    """The axis as a number from 0.

    Raises:
        UnknownRowsError: there is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise UnknownRowsError(f"has an axis {axis}, of a tensor with {rank} dimensions")
    return axis % rank if rank else 0


def no_rows(*values: Value) -> None:
    """Check that the tensors are the same for every batch; they are weights, or parameters of the operator.

    Raises:
        MixesRowsError: a tensor has rows.
    """
    for value in values:
        if value.rows is not None:
            raise MixesRowsError("takes a parameter from the rows of the batch, for the whole of the batch")


def broadcast(values: Sequence[Value], name: str = "") -> Value:
    """Each element from the elements at its place; sizes of 1 are repeated. ``name`` tells unknown sizes apart."""
    rank = max(it.rank for it in values)
    with_rows = [it for it in values if it.rows is not None]
    places = {(it.place, it.inner, it.shape[it.rows]) for it in with_rows if it.rows is not None}
    if len(places) > 1:
        raise MixesRowsError(f"{ACROSS}: they lie along different axes of its inputs")
    place = with_rows[0].place if with_rows else None
    shape: list[Size] = []
    for back in reversed(range(rank)):
        sizes = {it.shape[it.rank - 1 - back] for it in values if it.rank > back} - {ONE}
        if back == place:
            fixed = [it for it in values if it.rows is None and it.rank > back and it.shape[it.rank - 1 - back] != ONE]
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
    known = [it for it in sizes if it.value is not None]
    if known:
        return known[0]
    for it in sizes:
        # A table that is cut to the length L has min(size, L) rows: that is L, or 1, where it goes together with L.
        if all(
            other == it or (str(other.terms[0][0][0]).endswith(f",{it!r})") and _is_minimum(other)) for other in sizes
        ):
            return it
    return opaque(text)


def _is_minimum(size: Size) -> bool:
    return size.is_opaque and size.terms[0][0][0].startswith(f"{OPAQUE}min(")


def along(value: Value, axes: Collection[int], sizes: Mapping[int, Size] | None = None) -> Value:
    """An operator that computes along ``axes``, and on each place of the others by itself; ``sizes`` are new ones.

    Raises:
        MixesRowsError: the rows lie along one of the axes.
    """
    if value.rows in axes:
        raise across(value)
    changed = sizes or {}
    return Value(tuple(changed.get(i, size) for i, size in enumerate(value.shape)), value.rows, value.inner)


def reduced(value: Value, axes: Collection[int], keep: bool) -> Value:
    """An operator that leaves one element of ``axes``, and the axes themselves where ``keep``."""
    kept = along(value, axes, dict.fromkeys(axes, ONE))
    return kept if keep else dropped(kept, axes)


def dropped(value: Value, axes: Collection[int]) -> Value:
    """Without axes, of a size of 1 each."""
    if value.rows in axes:
        raise across(value)
    left = [i for i in range(value.rank) if i not in axes]
    rows = None if value.rows is None else left.index(value.rows)
    return Value(tuple(value.shape[i] for i in left), rows, value.inner)


def inserted(value: Value, axes: Collection[int]) -> Value:
    """With new axes of a size of 1, at these places of the result."""
    rank = value.rank + len(axes)
    old = iter(range(value.rank))
    order = [None if i in axes else next(old) for i in range(rank)]
    rows = None if value.rows is None else order.index(value.rows)
    return Value(tuple(ONE if i is None else value.shape[i] for i in order), rows, value.inner)


def transposed(value: Value, order: Sequence[int]) -> Value:
    """The axes in another order."""
    if sorted(order) != list(range(value.rank)):
        raise UnknownRowsError(f"orders {value.rank} axes as {list(order)}")
    rows = None if value.rows is None else list(order).index(value.rows)
    return Value(tuple(value.shape[i] for i in order), rows, value.inner)


def reshaped(value: Value, shape: Shape) -> Value:
    """The same elements in the same order, with another shape.

    The place of an element in memory tells its row: ``(place // below) % N``, where ``below`` counts the elements of
    one row that lie together. So the rows are found again in the axis of the new shape that N is a factor of. ``above``
    counts how often all rows come; either number is enough, because a model refuses shapes that are not equally large.
    """
    if value.rows is None:
        if any(size.depends for size in shape):
            raise MixesRowsError(f"{COUNTS}: it gives a constant that many rows")
        return Value(shape)
    found = [i for i, size in enumerate(shape) if size.depends]
    if len(found) != 1:
        raise _no_place(value, shape)
    (axis,) = found
    old = value.shape[value.rows].divided(N * value.inner)
    below = value.inner * product(value.shape[value.rows + 1 :])
    inner = below.divided(product(shape[axis + 1 :]))
    outer = None if inner is None else shape[axis].divided(N * inner)
    if outer is None and old is not None:
        outer = (product(value.shape[: value.rows]) * old).divided(product(shape[:axis]))
        inner = None if outer is None else shape[axis].divided(N * outer)
    if inner is None or outer is None or outer.depends or inner.depends:
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
    found = [i for i, size in enumerate(shape) if size.depends]
    if not found:
        return broadcast([value, Value(shape)], name)
    if len(found) > 1:
        raise MixesRowsError(f"{COUNTS}: {_shown(shape)} has it twice")
    place = len(shape) - 1 - found[0]
    if value.rows is None:
        if shape[found[0]] != N:
            raise UnknownRowsError(f"repeats a constant to {_shown(shape)}")
        return broadcast([value, Value(shape, found[0])], name)
    if value.place != place or value.shape[value.rows] != shape[found[0]]:
        raise MixesRowsError(f"{ACROSS}: it repeats {_shown(value.shape)} to {_shown(shape)}")
    return broadcast([value, Value(shape, found[0], value.inner)], name)


def joined(values: Sequence[Value], axis: int, name: str = "") -> Value:
    """Tensors one after another along an axis."""
    rank = max(it.rank for it in values)
    if any(it.rank != rank for it in values):
        raise UnknownRowsError("joins tensors of different ranks")
    for it in values:
        if it.rows == axis:
            raise across(it)
    others = [Value(tuple(ONE if i == axis else s for i, s in enumerate(it.shape)), it.rows, it.inner) for it in values]
    if any(it.rows is not None for it in values):
        (rows,) = {it.rows for it in values if it.rows is not None} if _one_axis(values) else (None,)
        if rows is None or any(it.rows is None for it in values):
            raise MixesRowsError(f"{ACROSS}: it puts row i beside row i of a constant")
    whole = broadcast(others, name)
    total = values[0].shape[axis]
    for it in values[1:]:
        total = total + it.shape[axis]
    return along(whole, (axis,), {axis: total})


def _one_axis(values: Sequence[Value]) -> bool:
    return len({it.rows for it in values if it.rows is not None}) == 1
