"""Rules for operators that take elements of one tensor by the numbers in another."""

from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, Value, across


def taken(data: Value, indices: Value, axis: int) -> Value:
    """``data`` at ``indices`` of an axis, in whose place the axes of ``indices`` come (numpy's ``take``)."""
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if data.rows == axis:
        raise across(data)
    if data.rows is not None and indices.rows is not None:
        raise MixesRowsError(f"{ACROSS}: it takes each row's indices from every row")
    if indices.rows is not None:
        return Value(shape, axis + indices.rows, indices.inner)
    if data.rows is None:
        return Value(shape)
    return Value(shape, data.rows if data.rows < axis else data.rows - 1 + indices.rank, data.inner)


def taken_beside(data: Value, indices: Value, axis: int, *more: Value) -> Value:
    """For each element of ``indices``, the element of ``data`` at that number of an axis, and at the same other places.

    ``more``: tensors of the shape of ``indices`` (the values that are written there).
    """
    same_rows(data, indices, *more, axis=axis)
    shape = tuple(size if i == axis else data.shape[i] for i, size in enumerate(indices.shape))
    return Value(shape if data.rows is None else indices.shape, indices.rows, indices.inner)


def same_rows(*values: Value, axis: int) -> None:
    """Check that all tensors have the rows along one axis, which is not ``axis``; or none has rows.

    Raises:
        MixesRowsError: they do not.
    """
    rows = {(it.rows, it.inner, None if it.rows is None else it.shape[it.rows]) for it in values}
    if len(rows) > 1:
        raise MixesRowsError(f"{ACROSS}: it takes elements of its inputs by their place in the batch")
    for it in values:
        if it.rows is not None and it.rows == axis:
            raise across(it)


def taken_by_tuples(data: Value, indices: Value, batch_dims: int, tuple_size: int) -> Value:
    """``data`` at the tuples of numbers along the last axis of ``indices`` (ONNX's GatherND)."""
    rest = data.shape[batch_dims + tuple_size :]
    shape = (*indices.shape[:-1], *rest)
    if indices.rows == indices.rank - 1:
        raise across(indices)
    if data.rows is None and indices.rows is None:
        return Value(shape)
    if data.rows is None and indices.rows is not None and indices.rows >= batch_dims:
        return Value(shape, indices.rows, indices.inner)
    if data.rows is not None and data.rows < batch_dims and data.rows == indices.rows:
        same_rows(data, indices, axis=-1)
        return Value(shape, indices.rows, indices.inner)
    if data.rows is not None and indices.rows is None and data.rows >= batch_dims + tuple_size:
        return Value(shape, len(shape) - (data.rank - data.rows), data.inner)
    raise MixesRowsError(f"{ACROSS}: it takes elements by their place in the batch")
