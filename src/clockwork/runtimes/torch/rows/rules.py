"""Rules for ATen's operators that move elements, or compute along axes."""

from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.rows.indexing import gathered, gathered_elements, same_rows
from clockwork.runtimes.rows.moves import (
    along,
    broadcast,
    check_no_rows,
    concatenated,
    expanded,
    reduced,
    reshaped,
    squeezed,
    transposed,
    unsqueezed,
)
from clockwork.runtimes.rows.size import ONE, N, Size
from clockwork.runtimes.rows.value import ACROSS, COUNTS, MixesRowsError, UnknownRowsError, Value, across_error
from clockwork.runtimes.torch.rows.call import Call, Result, rule

FAR: Final = 10**9
"""A slice that ends at this position or later includes the end of the axis."""


def pointwise(call: Call) -> Result:
    """Rule of operators that compute each element from the elements at the same position."""
    call.check_numbers()
    return broadcast(call.tensors())


def same(value: Value) -> Value:
    """Return the value with its rows unchanged."""
    return Value(value.shape, value.batch_axis, value.inner)


@rule(
    "clone",
    "contiguous",
    "alias",
    "detach",
    "lift_fresh",
    "lift_fresh_copy",
    "_to_copy",
    "to",
    "type_as",
    "resolve_conj",
    "resolve_neg",
    "zeros_like",
    "ones_like",
    "full_like",
    "nan_to_num",
    "_conj",
    "fill",
    "zero",
)
def same_shape(call: Call) -> Result:
    """Rule of operators whose output has the shape of the first argument.

    Each element of the output is a constant, or is computed without neighbouring elements.
    """
    call.check_numbers()
    check_no_rows(*(tensor for tensor in call.tensors("value", "fill_value") if tensor is not call.first))
    return same(call.first)


@rule("copy", "copy_", "zero_", "fill_", "masked_fill", "where", "bucketize", "searchsorted")
def by_elements(call: Call) -> Result:
    """Rule of operators that compute element by element, although PyTorch does not tag them as pointwise.

    Boundaries, such as those of ``bucketize``, apply to all elements.
    """
    call.check_numbers()
    if call.operator == "where" and len(call.shapes) != 1:
        raise UnknownRowsError("returns the positions of elements")
    boundaries = call.tensors("boundaries", "sorted_sequence", "sorter")
    check_no_rows(*boundaries)
    if any(boundary.rank != 1 for boundary in boundaries):
        raise UnknownRowsError("has boundaries of several dimensions")
    return broadcast([tensor for tensor in call.tensors() if not any(tensor is other for other in boundaries)])


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "dropout_")
def dropout(call: Call) -> Result:
    """Rule of dropout, which returns its input except in training."""
    if call.get("train", False) and call.get("p", 1.0):
        raise MixesRowsError("drops elements at random, as in training")
    return [same(call.first)] * 2


@rule(
    "softmax",
    "_softmax",
    "log_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "cummax",
    "cummin",
    "sort",
    "argsort",
    "topk",
    "glu",
    "kthvalue",
    "mode",
    "_safe_softmax",
)
def one_axis(call: Call) -> Result:
    """Rule of operators that compute along one axis, which is by default the last axis."""
    x = call.first
    kept = along(x, (call.axis(x.rank, -1),))
    if call.operator in ("kthvalue", "mode") and not call.get("keepdim", False):
        kept = squeezed(kept, (call.axis(x.rank, -1),))
    return [kept] * 2


@rule(
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "argmax",
    "argmin",
    "any",
    "all",
    "prod",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
    "nansum",
    "nanmean",
    "median",
    "nanmedian",
    "count_nonzero",
    "aminmax",
)
def reduction(call: Call) -> Result:
    """Rule of operators that reduce the given axes, or all axes.

    An operator with two tensors, such as ``max``, computes element by element instead.
    """
    x = call.first
    if len(call.tensors()) > 1:
        return pointwise(call)
    return [reduced(x, call.axes(x.rank), bool(call.get("keepdim", False)))] * 2


@rule("flip", "roll", "tril", "triu", "diagonal", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def some_axes(call: Call) -> Result:
    """Rule of operators that move elements along the named axes, or along the last two or three axes."""
    x = call.first
    if call.operator in ("flip", "roll"):
        return along(x, call.axes(x.rank, "dims"))
    if call.operator in ("tril", "triu"):
        return along(x, (x.rank - 2, x.rank - 1))
    if call.operator == "unfold":
        axis = call.axis(x.rank, name="dimension")
        moved = along(x, (axis,))
        return Value((*moved.shape, ONE), moved.batch_axis, moved.inner)
    if call.operator == "diagonal":
        axes = (call.axis(x.rank, 0, "dim1"), call.axis(x.rank, 1, "dim2"))
        moved = squeezed(along(x, axes), axes)
        return Value((*moved.shape, ONE), moved.batch_axis, moved.inner)
    return along(x, (x.rank - 3, x.rank - 2, x.rank - 1))


@rule("constant_pad_nd", "pad", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def pad(call: Call) -> Result:
    """Rule of padding. The last axes are padded, with two numbers for each axis."""
    x = call.first
    amounts = call.get("pad", call.get("padding", []))
    padded = len(amounts) // 2
    check_no_rows(*call.tensors("value"))
    touched = [
        x.rank - 1 - i
        for i in range(padded)
        if call.operator != "constant_pad_nd" or amounts[2 * i : 2 * i + 2] != [0, 0]
    ]
    return along(x, touched)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "ravel", "_reshape_alias")
def view(call: Call) -> Result:
    """Rule of operators that change the shape but not the elements."""
    return reshaped(call.first, call.shapes[0])


@rule("squeeze")
def squeeze(call: Call) -> Result:
    """Rule of operators that remove axes of size 1."""
    x = call.first
    axes = call.axes(x.rank)
    if x.batch_axis in axes:
        raise MixesRowsError(f"{COUNTS}: it removes their axis if there is one row")
    return squeezed(x, [i for i in axes if x.shape[i] == ONE])


@rule("unsqueeze")
def unsqueeze(call: Call) -> Result:
    """Rule of operators that insert an axis."""
    x = call.first
    return unsqueezed(x, (call.axis(x.rank + 1),))


@rule("transpose", "swapaxes", "swapdims", "permute", "t", "movedim", "numpy_T", "mT", "adjoint")
def transpose(call: Call) -> Result:
    """Rule of operators that reorder the axes."""
    x = call.first
    order = list(range(x.rank))
    if call.operator == "permute":
        return transposed(x, list(call.axes(x.rank, "dims")))
    if call.operator == "movedim":
        raise UnknownRowsError("is an operator without a rule")
    if call.operator == "numpy_T":
        return transposed(x, order[::-1])
    if x.rank < 2:
        return same(x)
    names = {"transpose": ("dim0", "dim1"), "swapaxes": ("axis0", "axis1"), "swapdims": ("dim0", "dim1")}
    one, other = names.get(call.operator, ("", ""))
    a, b = (call.axis(x.rank, name=one), call.axis(x.rank, name=other)) if one else (x.rank - 2, x.rank - 1)
    order[a], order[b] = order[b], order[a]
    return transposed(x, order)


@rule("select", "unbind")
def select(call: Call) -> Result:
    """Rule of operators that select one position of an axis, or split an axis into all positions."""
    x = call.first
    axis = call.axis(x.rank, 0)
    if x.batch_axis == axis:
        raise across_error(x)
    return [squeezed(x, (axis,))] * len(call.shapes)


@rule("slice", "narrow")
def cut(call: Call) -> Result:
    """Rule of operators that slice an axis. A slice with all rows changes nothing."""
    x = call.first
    axis = call.axis(x.rank, 0)
    if x.batch_axis != axis:
        call.check_numbers()
        return along(x, (axis,))
    end = call.get("end", FAR)
    all_of_them = end == x.shape[axis] if isinstance(end, Size) else end >= FAR
    if call.operator == "narrow" or call.get("start", 0) != 0 or call.get("step", 1) != 1 or not all_of_them:
        raise across_error(x)
    return same(x)


@rule("split", "split_with_sizes", "chunk", "tensor_split")
def split(call: Call) -> Result:
    """Rule of operators that split an axis into parts."""
    x = call.first
    return [along(x, (call.axis(x.rank, 0),))] * len(call.shapes)


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Result:
    """Rule of operators that expand axes of size 1."""
    return expanded(call.first, call.shapes[0])


@rule("repeat")
def repeat(call: Call) -> Result:
    """Rule of operators that repeat a tensor along each axis."""
    x = call.first
    repeats = list(call.get("repeats", []))
    wide = unsqueezed(x, range(len(repeats) - x.rank))
    if wide.batch_axis is not None:
        if repeats[wide.batch_axis] != 1:
            raise across_error(wide)
        return same(wide)
    found = [i for i, repeat in enumerate(repeats) if isinstance(repeat, Size) and repeat.depends_on_rows]
    if not found:
        return same(wide)
    if len(found) > 1 or repeats[found[0]] != N:
        raise MixesRowsError(COUNTS)
    return Value(call.shapes[0], found[0], wide.shape[found[0]])


@rule("cat", "concat", "concatenate", "stack")
def cat(call: Call) -> Result:
    """Rule of operators that concatenate tensors along an axis, or stack them along a new axis."""
    values = call.tensors("tensors")
    if call.operator == "stack":
        axis = call.axis(values[0].rank + 1, 0)
        return concatenated([unsqueezed(value, (axis,)) for value in values], axis)
    values = [
        value for value in values if value.rank != 1 or value.shape != (Size({}),)
    ]  # empty tensors may have any rank
    return concatenated(values, call.axis(values[0].rank, 0))


@rule("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "scalar_tensor")
def constant(call: Call) -> Result:
    """Rule of operators that fill a shape with one number."""
    fill = call.arguments.get("fill_value", call.arguments.get("s"))
    if isinstance(fill, Value) and fill.batch_axis is not None:
        raise UnknownRowsError("fills with a number computed from rows")
    if isinstance(fill, Size) and fill.depends_on_rows:
        raise MixesRowsError(COUNTS)
    return expanded(Value(()), call.shapes[0])


@rule("arange", "linspace", "eye", "tril_indices", "triu_indices")
def positions(call: Call) -> Result:
    """Rule of operators that generate consecutive numbers, or tensors that are made from such numbers."""
    if any(size.depends_on_rows for size in call.shapes[0]):
        raise MixesRowsError(f"{COUNTS}: it returns each row's position in the batch")
    call.check_numbers()
    if any(tensor.batch_axis is not None for tensor in call.tensors()):
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on them")
    return Value(call.shapes[0])


@rule(
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "nonzero_static",
    "item",
    "_local_scalar_dense",
)
def data_dependent_size(call: Call) -> Result:
    """Rule of operators whose result has a size that depends on all rows. The rule rejects these operators."""
    if any(tensor.batch_axis is not None for tensor in call.tensors()):
        raise MixesRowsError(f"{ACROSS}: a size depends on all of them")
    raise UnknownRowsError("has an output whose size depends on its input")


@rule("embedding")
def embedding(call: Call) -> Result:
    """Rule of operators that look up rows of a table."""
    return gathered(call.value("weight"), call.value("indices"), 0)


@rule("index_select")
def index_select(call: Call) -> Result:
    """Rule of operators that select elements of an axis."""
    x = call.first
    return gathered(x, call.value("index"), call.axis(x.rank))


@rule("gather", "take_along_dim")
def gather(call: Call) -> Result:
    """Rule of operators that select elements along one axis. An element keeps its positions on the other axes."""
    x = call.first
    return gathered_elements(x, call.value("index" if call.operator == "gather" else "indices"), call.axis(x.rank))


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(call: Call) -> Result:
    """Rule of operators that write elements at indices along one axis.

    An element keeps its positions on the other axes.
    """
    x = call.first
    check_no_rows(*call.tensors("value"))
    same_rows(x, *call.tensors("index", "src"), axis=call.axis(x.rank))
    return same(x)


@rule("index")
def index(call: Call) -> Result:
    """Rule of operators that select elements by the indices in one tensor, or in several adjacent tensors."""
    x = call.first
    indices: Sequence[Value | None] = call.get("indices", [])
    found = [i for i, tensor in enumerate(indices) if tensor is not None]
    if not found or found != list(range(found[0], found[0] + len(found))):
        raise UnknownRowsError("selects elements by several tensors of indices that are not adjacent")
    tensors = [tensor for tensor in indices if tensor is not None]
    together = broadcast(tensors)
    if len(call.shapes[0]) != x.rank - len(tensors) + together.rank:
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on a mask")
    if x.batch_axis is not None and x.batch_axis in found:
        raise across_error(x)
    first = found[0]
    rest = Value((*x.shape[:first], ONE, *x.shape[first + len(tensors) :]))
    if x.batch_axis is not None:
        rest = Value(rest.shape, x.batch_axis if x.batch_axis < first else x.batch_axis - len(tensors) + 1, x.inner)
    return gathered(rest, together, first)


@rule("index_put", "index_put_", "index_add", "index_copy", "index_fill", "masked_scatter", "put", "take")
def by_position(call: Call) -> Result:
    """Rule of operators that write or select elements by their position in the whole tensor."""
    if any(tensor.batch_axis is not None for tensor in call.tensors()):
        raise MixesRowsError(f"{ACROSS}: it selects or writes elements by their position in the batch")
    return Value(call.shapes[0])


@rule("one_hot")
def one_hot(call: Call) -> Result:
    """Rule of one_hot, which adds a last axis.

    If the size of this axis is not given, it depends on the largest element.
    """
    x = call.first
    if call.get("num_classes", -1) == -1 and x.batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on all of them")
    return unsqueezed(x, (x.rank,))
