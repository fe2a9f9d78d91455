"""Rules for operators that take elements of one tensor by the numbers in another."""

from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, Value, across_error


def gathered(data: Value, indices: Value, axis: int) -> Value:
    """``data`` at ``indices`` of an axis, in whose place the axes of ``indices`` come (numpy's ``take``)."""
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if data.batch_axis == axis:
        raise across_error(data)
    if data.batch_axis is not None and indices.batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: it takes each row's indices from every row")
    if indices.batch_axis is not None:
        return Value(shape, axis + indices.batch_axis, indices.inner)
    if data.batch_axis is None:
        return Value(shape)
    return Value(shape, data.batch_axis if data.batch_axis < axis else data.batch_axis - 1 + indices.rank, data.inner)


def gathered_elements(data: Value, indices: Value, axis: int, *more: Value) -> Value:
    """For each element of ``indices``, the element of ``data`` at that number of an axis, and at the same other places.

    ``more``: tensors of the shape of ``indices`` (the values that are written there).
    """
    same_rows(data, indices, *more, axis=axis)
    shape = tuple(size if i == axis else data.shape[i] for i, size in enumerate(indices.shape))
    return Value(shape if data.batch_axis is None else indices.shape, indices.batch_axis, indices.inner)


def same_rows(*values: Value, axis: int) -> None:
    """Check that all tensors have the rows along one axis, which is not ``axis``; or none has rows.

    Raises:
        MixesRowsError: they do not.
    """
    rows = {
        (tensor.batch_axis, tensor.inner, None if tensor.batch_axis is None else tensor.shape[tensor.batch_axis])
        for tensor in values
    }
    if len(rows) > 1:
        raise MixesRowsError(f"{ACROSS}: it takes elements of its inputs by their place in the batch")
    for tensor in values:
        if tensor.batch_axis is not None and tensor.batch_axis == axis:
            raise across_error(tensor)


def gathered_nd(data: Value, indices: Value, batch_dims: int, tuple_size: int) -> Value:
    """``data`` at the tuples of numbers along the last axis of ``indices`` (ONNX's GatherND)."""
    rest = data.shape[batch_dims + tuple_size :]
    shape = (*indices.shape[:-1], *rest)
    if indices.batch_axis == indices.rank - 1:
        raise across_error(indices)
    if data.batch_axis is None and indices.batch_axis is None:
        return Value(shape)
    if data.batch_axis is None and indices.batch_axis is not None and indices.batch_axis >= batch_dims:
        return Value(shape, indices.batch_axis, indices.inner)
    if data.batch_axis is not None and data.batch_axis < batch_dims and data.batch_axis == indices.batch_axis:
        same_rows(data, indices, axis=-1)
        return Value(shape, indices.batch_axis, indices.inner)
    if data.batch_axis is not None and indices.batch_axis is None and data.batch_axis >= batch_dims + tuple_size:
        return Value(shape, len(shape) - (data.rank - data.batch_axis), data.inner)
    raise MixesRowsError(f"{ACROSS}: it takes elements by their place in the batch")
