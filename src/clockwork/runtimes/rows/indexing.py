"""Rules for operators that select elements of one tensor by the indices in a second tensor."""

from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, Value, across_error


def gathered(data: Value, indices: Value, axis: int) -> Value:
    """Rule of numpy's ``take``. The axes of ``indices`` replace one axis of ``data``."""
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if data.batch_axis == axis:
        raise across_error(data)
    if data.batch_axis is not None and indices.batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: it applies the indices of each row to all rows")
    if indices.batch_axis is not None:
        return Value(shape, axis + indices.batch_axis, indices.inner)
    if data.batch_axis is None:
        return Value(shape)
    return Value(shape, data.batch_axis if data.batch_axis < axis else data.batch_axis - 1 + indices.rank, data.inner)


def gathered_elements(data: Value, indices: Value, axis: int, *more: Value) -> Value:
    """Rule of numpy's ``take_along_axis``. Each index replaces the element's coordinate on one axis.

    ``more`` contains further tensors with the shape of ``indices``, such as the values to write.
    """
    same_rows(data, indices, *more, axis=axis)
    shape = tuple(size if i == axis else data.shape[i] for i, size in enumerate(indices.shape))
    return Value(shape if data.batch_axis is None else indices.shape, indices.batch_axis, indices.inner)


def same_rows(*values: Value, axis: int) -> None:
    """Check that all tensors have the same batch axis, and that it is not ``axis``.

    Tensors without a batch axis are also accepted, if none of the tensors has one.

    Raises:
        MixesRowsError: the batch axes differ, or ``axis`` is the batch axis.
    """
    rows = {
        (tensor.batch_axis, tensor.inner, None if tensor.batch_axis is None else tensor.shape[tensor.batch_axis])
        for tensor in values
    }
    if len(rows) > 1:
        raise MixesRowsError(f"{ACROSS}: it selects elements by their position in the batch")
    for tensor in values:
        if tensor.batch_axis is not None and tensor.batch_axis == axis:
            raise across_error(tensor)


def gathered_nd(data: Value, indices: Value, batch_dims: int, tuple_size: int) -> Value:
    """Rule of ONNX's GatherND. Each tuple of indices lies along the last axis of ``indices``."""
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
    raise MixesRowsError(f"{ACROSS}: it selects elements by their position in the batch")
