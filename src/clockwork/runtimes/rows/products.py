"""Rules for matrix products, convolutions and Einstein sums."""

import re
from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.rows.moves import broadcast, check_no_rows, squeezed, unsqueezed
from clockwork.runtimes.rows.size import ONE, Size, opaque
from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, UnknownRowsError, Value, across_error

MATRIX: Final = 2
"""Number of dimensions of a matrix. A tensor with more dimensions is a stack of matrices along its last two axes."""

_EQUATION: Final = re.compile(r"[A-Za-z.,]+->[A-Za-z.]*")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def matmul(left: Value, right: Value, name: str = "") -> Value:
    """Rule of ``left @ right`` as in numpy.

    The sum is over the last axis of ``left`` and the last but one axis of ``right``.
    """
    if not left.rank or not right.rank:
        raise UnknownRowsError("multiplies a scalar as a matrix")
    if left.rank == 1:
        return _without(matmul(unsqueezed(left, (0,)), right, name), MATRIX)
    if right.rank == 1:
        return _without(matmul(left, unsqueezed(right, (1,)), name), 1)
    if left.batch_axis == left.rank - 1:
        raise across_error(left)
    if right.batch_axis == right.rank - MATRIX:
        raise across_error(right)
    # The axis of the sum disappears. The remaining axis of each matrix is broadcast against an axis of size 1.
    rows_of_left = Value((*left.shape[:-1], ONE), left.batch_axis, left.inner)
    columns = (*right.shape[:-MATRIX], ONE, right.shape[-1])
    return broadcast([rows_of_left, Value(columns, right.batch_axis, right.inner)], name)


def _without(value: Value, back: int) -> Value:
    """Remove an axis of size 1. ``back`` is the axis, counted from the end: the last axis is 1."""
    return squeezed(value, (value.rank - back,))


def per_row(value: Value, channels: Size | None, sizes: Sequence[Size], *parameters: Value) -> Value:
    """Rule of operators that compute each row of ``[rows, channels, ...]`` separately, with the same parameters.

    ``channels`` and ``sizes`` describe the result. If ``channels`` is None, the result has as many channels as the
    input.
    """
    check_no_rows(*parameters)
    if value.batch_axis not in (None, 0):
        raise across_error(value)
    kept = value.shape[1] if channels is None else channels
    return Value((value.shape[0], kept, *sizes), value.batch_axis, value.inner)


def einsum(equation: str, values: Sequence[Value], name: str = "") -> Value:
    """Rule of Einstein sums."""
    text = equation.replace(" ", "")
    if "->" not in text:
        raise UnknownRowsError("has an equation without '->'")
    if not _EQUATION.fullmatch(text):
        raise UnknownRowsError(f"has an equation {equation!r}")
    terms, _, result = text.partition("->")
    inputs = terms.split(",")
    if len(inputs) != len(values):
        raise UnknownRowsError(f"has {len(values)} inputs for the equation {equation!r}")
    labels = [_labels(term, value.rank) for term, value in zip(inputs, values, strict=True)]
    sizes: dict[str, Size] = {}
    rows: set[tuple[str, Size]] = set()
    for axis_labels, value in zip(labels, values, strict=True):
        for i, (label, size) in enumerate(zip(axis_labels, value.shape, strict=True)):
            if value.batch_axis == i:
                rows.add((label, value.inner))
            if sizes.get(label, ONE) == ONE or value.batch_axis == i:
                sizes[label] = size
    ellipsis = max(labels, key=lambda axis_labels: sum(label.isdigit() for label in axis_labels))
    out = _labels(
        result, len(result.replace("...", "")) + (sum(label.isdigit() for label in ellipsis) if "." in result else 0)
    )
    if not rows:
        return Value(tuple(sizes.get(label, opaque(f"{name}.{label}")) for label in out))
    if len(rows) > 1:
        raise MixesRowsError(f"{ACROSS}: the batch axes have several labels in {equation!r}")
    ((label, inner),) = rows
    for axis_labels, value in zip(labels, values, strict=True):
        if axis_labels.count(label) > 1 or (
            value.batch_axis is None and label in axis_labels and value.shape[axis_labels.index(label)] != ONE
        ):
            raise MixesRowsError(f"{ACROSS}: label {label!r} of {equation!r}")
    if out.count(label) != 1:
        raise MixesRowsError(f"{ACROSS}: it sums over label {label!r} of {equation!r}")
    return Value(tuple(sizes[label] for label in out), out.index(label), inner)


def _labels(term: str, rank: int) -> list[str]:
    """Return one label for each axis.

    The labels of axes that ``...`` covers are numbers, counted from the last of these axes.
    """
    before, dots, after = term.partition("...")
    covered = rank - len(before) - len(after)
    if "." in before + after or covered < 0 or (covered and not dots):
        raise UnknownRowsError(f"has labels {term!r} for {rank} axes")
    return [*before, *(str(i) for i in reversed(range(covered))), *after]
