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
"""A slice that ends there, or further, ends with the axis."""


def pointwise(call: Call) -> Result:
    """Each element from those at its place."""
    call.check_numbers()
    return broadcast(call.tensors())


def same(value: Value) -> Value:
    """The rows where they were."""
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
def as_it_is(call: Call) -> Result:
    """Of the shape of the first argument, from its elements or from none."""
    call.check_numbers()
    check_no_rows(*(it for it in call.tensors("value", "fill_value") if it is not call.first))
    return same(call.first)


@rule("copy", "copy_", "zero_", "fill_", "masked_fill", "where", "bucketize", "searchsorted")
def by_elements(call: Call) -> Result:
    """As pointwise operators, though PyTorch does not call them so; boundaries are the same for all elements."""
    call.check_numbers()
    if call.operator == "where" and len(call.shapes) != 1:
        raise UnknownRowsError("gives the places of elements")
    boundaries = call.tensors("boundaries", "sorted_sequence", "sorter")
    check_no_rows(*boundaries)
    if any(it.rank != 1 for it in boundaries):
        raise UnknownRowsError("has boundaries of several dimensions")
    return broadcast([it for it in call.tensors() if not any(it is other for other in boundaries)])


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "dropout_")
def dropout(call: Call) -> Result:
    """Outside of training, the input."""
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
    """Along one axis; the last if none is given."""
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
    """Over given axes, or all; or, with two tensors, element by element."""
    x = call.first
    if len(call.tensors()) > 1:
        return pointwise(call)
    return [reduced(x, call.axes(x.rank), bool(call.get("keepdim", False)))] * 2


@rule("flip", "roll", "tril", "triu", "diagonal", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def some_axes(call: Call) -> Result:
    """Axes that are named, or the last two or three."""
    x = call.first
    if call.operator in ("flip", "roll"):
        return along(x, call.axes(x.rank, "dims"))
    if call.operator in ("tril", "triu"):
        return along(x, (x.rank - 2, x.rank - 1))
    if call.operator == "unfold":
        axis = call.axis(x.rank, name="dimension")
        made = along(x, (axis,))
        return Value((*made.shape, ONE), made.batch_axis, made.inner)
    if call.operator == "diagonal":
        axes = (call.axis(x.rank, 0, "dim1"), call.axis(x.rank, 1, "dim2"))
        made = squeezed(along(x, axes), axes)
        return Value((*made.shape, ONE), made.batch_axis, made.inner)
    return along(x, (x.rank - 3, x.rank - 2, x.rank - 1))


@rule("constant_pad_nd", "pad", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def pad(call: Call) -> Result:
    """The last axes, two numbers for each."""
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
    """The same elements in another shape."""
    return reshaped(call.first, call.shapes[0])


@rule("squeeze")
def squeeze(call: Call) -> Result:
    """Without axes of size 1."""
    x = call.first
    axes = call.axes(x.rank)
    if x.batch_axis in axes:
        raise MixesRowsError(f"{COUNTS}: it drops their axis where there is one row")
    return squeezed(x, [i for i in axes if x.shape[i] == ONE])


@rule("unsqueeze")
def unsqueeze(call: Call) -> Result:
    """With a new axis."""
    x = call.first
    return unsqueezed(x, (call.axis(x.rank + 1),))


@rule("transpose", "swapaxes", "swapdims", "permute", "t", "movedim", "numpy_T", "mT", "adjoint")
def transpose(call: Call) -> Result:
    """The axes in another order."""
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
    """One place of an axis, or each of them."""
    x = call.first
    axis = call.axis(x.rank, 0)
    if x.batch_axis == axis:
        raise across_error(x)
    return [squeezed(x, (axis,))] * len(call.shapes)


@rule("slice", "narrow")
def cut(call: Call) -> Result:
    """A range of an axis. One that takes all rows takes what was there."""
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
    """Parts of an axis."""
    x = call.first
    return [along(x, (call.axis(x.rank, 0),))] * len(call.shapes)


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Result:
    """Repeated along axes of size 1."""
    return expanded(call.first, call.shapes[0])


@rule("repeat")
def repeat(call: Call) -> Result:
    """Repeated along each axis."""
    x = call.first
    repeats = list(call.get("repeats", []))
    wide = unsqueezed(x, range(len(repeats) - x.rank))
    if wide.batch_axis is not None:
        if repeats[wide.batch_axis] != 1:
            raise across_error(wide)
        return same(wide)
    found = [i for i, it in enumerate(repeats) if isinstance(it, Size) and it.depends_on_rows]
    if not found:
        return same(wide)
    if len(found) > 1 or repeats[found[0]] != N:
        raise MixesRowsError(COUNTS)
    return Value(call.shapes[0], found[0], wide.shape[found[0]])


@rule("cat", "concat", "concatenate", "stack")
def cat(call: Call) -> Result:
    """One after another, or along a new axis."""
    values = call.tensors("tensors")
    if call.operator == "stack":
        axis = call.axis(values[0].rank + 1, 0)
        return concatenated([unsqueezed(it, (axis,)) for it in values], axis)
    values = [it for it in values if it.rank != 1 or it.shape != (Size({}),)]  # empty ones may have any rank
    return concatenated(values, call.axis(values[0].rank, 0))


@rule("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "scalar_tensor")
def constant(call: Call) -> Result:
    """One number, of a shape."""
    fill = call.arguments.get("fill_value", call.arguments.get("s"))
    if isinstance(fill, Value) and fill.batch_axis is not None:
        raise UnknownRowsError("takes its number from rows")
    if isinstance(fill, Size) and fill.depends_on_rows:
        raise MixesRowsError(COUNTS)
    return expanded(Value(()), call.shapes[0])


@rule("arange", "linspace", "eye", "tril_indices", "triu_indices")
def places(call: Call) -> Result:
    """Numbers of places."""
    if any(size.depends_on_rows for size in call.shapes[0]):
        raise MixesRowsError(f"{COUNTS}: it gives each row's place in the batch")
    call.check_numbers()
    if any(it.batch_axis is not None for it in call.tensors()):
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
def as_many_as_found(call: Call) -> Result:
    """How many elements there are, or how large sizes are, depends on all rows."""
    if any(it.batch_axis is not None for it in call.tensors()):
        raise MixesRowsError(f"{ACROSS}: a size depends on all of them")
    raise UnknownRowsError("has an output whose size depends on its input")


@rule("embedding")
def embedding(call: Call) -> Result:
    """Rows of a table."""
    return gathered(call.value("weight"), call.value("indices"), 0)


@rule("index_select")
def index_select(call: Call) -> Result:
    """Elements of an axis."""
    x = call.first
    return gathered(x, call.value("index"), call.axis(x.rank))


@rule("gather", "take_along_dim")
def gather(call: Call) -> Result:
    """Elements of an axis, at the same place of the others."""
    x = call.first
    return gathered_elements(x, call.value("index" if call.operator == "gather" else "indices"), call.axis(x.rank))


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(call: Call) -> Result:
    """Elements written at numbers of an axis, at the same place of the others."""
    x = call.first
    check_no_rows(*call.tensors("value"))
    same_rows(x, *call.tensors("index", "src"), axis=call.axis(x.rank))
    return same(x)


@rule("index")
def index(call: Call) -> Result:
    """Elements by the numbers in one tensor, or in several next to each other."""
    x = call.first
    indices: Sequence[Value | None] = call.get("indices", [])
    found = [i for i, it in enumerate(indices) if it is not None]
    if not found or found != list(range(found[0], found[0] + len(found))):
        raise UnknownRowsError("takes elements by several tensors of numbers that are not next to each other")
    given = [it for it in indices if it is not None]
    together = broadcast(given)
    if len(call.shapes[0]) != x.rank - len(given) + together.rank:
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on a mask")
    if x.batch_axis is not None and x.batch_axis in found:
        raise across_error(x)
    first = found[0]
    rest = Value((*x.shape[:first], ONE, *x.shape[first + len(given) :]))
    if x.batch_axis is not None:
        rest = Value(rest.shape, x.batch_axis if x.batch_axis < first else x.batch_axis - len(given) + 1, x.inner)
    return gathered(rest, together, first)


@rule("index_put", "index_put_", "index_add", "index_copy", "index_fill", "masked_scatter", "put", "take")
def by_places(call: Call) -> Result:
    """Elements written or taken by their place."""
    if any(it.batch_axis is not None for it in call.tensors()):
        raise MixesRowsError(f"{ACROSS}: it takes or writes elements by their place in the batch")
    return Value(call.shapes[0])


@rule("one_hot")
def one_hot(call: Call) -> Result:
    """A new last axis; without its size, that depends on the largest element."""
    x = call.first
    if call.get("num_classes", -1) == -1 and x.batch_axis is not None:
        raise MixesRowsError(f"{ACROSS}: the size of its output depends on all of them")
    return unsqueezed(x, (x.rank,))
