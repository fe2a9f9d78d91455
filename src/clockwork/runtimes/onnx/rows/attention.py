"""Rules for attention layers."""

from collections.abc import Sequence

from clockwork.runtimes.onnx.rows.node import Node, rule
from clockwork.runtimes.rows.moves import check_no_rows
from clockwork.runtimes.rows.size import ONE, number
from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, UnknownRowsError, Value, across_error


def _together(node: Node, *places: int) -> Value:
    """Check that the inputs at these positions all have batch axis 0, or that none has a batch axis.

    Return the first of these inputs.
    """
    first = node.value(places[0])
    for at in places:
        if not node.has(at):
            continue
        tensor = node.value(at)
        if tensor.batch_axis not in (None, 0):
            raise across_error(tensor)
        if (tensor.batch_axis, tensor.inner) != (first.batch_axis, first.inner):
            raise MixesRowsError(f"{ACROSS}: the rows of its inputs do not correspond")
    return first


def _mask(node: Node, at: int, first: Value, least_rank: int) -> None:
    """Check that a mask has batch axis 0 or is the same for all rows."""
    if not node.has(at):
        return
    mask = node.value(at)
    if mask.batch_axis is not None:
        if mask.batch_axis != 0 or mask.rank < least_rank or mask.inner != first.inner or first.batch_axis is None:
            raise MixesRowsError(f"{ACROSS}: its mask does not correspond to the rows")
    elif first.batch_axis is not None and mask.rank >= least_rank and mask.shape[0] != ONE:
        raise UnknownRowsError("has a constant mask with a value for each row")


@rule("Attention")
def attention(node: Node) -> Sequence[Value]:
    """Rule of ONNX's Attention, whose Q, K and V have three or four dimensions.

    The node may have a mask, and past keys and values.
    """
    q = _together(node, 0, 1, 2, 4, 5, 6)
    v = node.value(2)
    if q.rank not in (3, 4) or v.rank != q.rank:
        raise UnknownRowsError(f"has an input with {q.rank} dimensions; 3 or 4 are expected")
    _mask(node, 3, q, 4)
    last = v.shape[-1]
    if q.rank == 3:
        heads = number(int(node.attributes["q_num_heads"]))
        width = last.divided(number(int(node.attributes["kv_num_heads"])))
        last = node.unknown_size(2) if width is None else heads * width
    result = Value((*q.shape[:-1], last), q.batch_axis, q.inner)
    others = [
        Value((q.shape[0], *(node.unknown_size(f"{at}.{i}") for i in range(3))), q.batch_axis, q.inner)
        for at in range(3)
    ]
    return [result, *others]


@rule("com.microsoft.MultiHeadAttention")
def multi_head_attention(node: Node) -> Sequence[Value]:
    """Rule of attention with a bias and masks, whose Q, K and V have three dimensions."""
    q = _together(node, 0, 1, 2)
    if (
        q.rank != 3
        or not node.has(2)
        or node.value(2).rank != 3
        or any(node.has(at) for at in range(6, len(node.inputs)))
    ):
        raise UnknownRowsError("is used in a way without a rule")
    check_no_rows(*([node.value(3)] if node.has(3) else []))
    if node.has(4) and node.value(4).rank < 2:
        raise UnknownRowsError("has a mask of one dimension")
    _mask(node, 4, q, 2)
    _mask(node, 5, q, 4)
    return [Value((*q.shape[:-1], node.value(2).shape[-1]), q.batch_axis, q.inner)]


@rule("com.microsoft.Attention")
def packed_attention(node: Node) -> Sequence[Value]:
    """Rule of attention with one input and the combined weights of Q, K and V."""
    x = node.rowwise(node.value(0), 3)
    check_no_rows(*(node.value(at) for at in (1, 2) if node.has(at)))
    if any(node.has(at) for at in (4, 6)) or node.attributes.get("qkv_hidden_sizes"):
        raise UnknownRowsError("is used in a way without a rule")
    if node.has(3) and node.value(3).rank < 2:
        raise UnknownRowsError("has a mask of one dimension")
    _mask(node, 3, x, 2)
    _mask(node, 5, x, 4)
    width = node.value(1).shape[-1].divided(number(3))
    return [Value((*x.shape[:-1], width or node.unknown_size(2)), x.batch_axis, x.inner)]


@rule("RotaryEmbedding")
def rotary_embedding(node: Node) -> Sequence[Value]:
    """Rule of rotary embeddings.

    Rotary embeddings rotate pairs of elements by angles from tables with one entry per position.
    """
    x = node.value(0)
    if x.batch_axis not in (None, 0):
        raise across_error(x)
    for at in (1, 2, 3):
        if node.has(at):
            tensor = node.value(at)
            if tensor.batch_axis is not None and (at < 3 and node.has(3)):
                raise MixesRowsError("takes a table for the whole batch from its rows")
            if tensor.batch_axis not in (None, 0) or (tensor.batch_axis is not None and tensor.inner != x.inner):
                raise MixesRowsError(f"{ACROSS}: its positions do not correspond to the rows")
            if (
                tensor.batch_axis is None
                and x.batch_axis is not None
                and not (at < 3 and node.has(3))
                and tensor.shape[0] != ONE
            ):
                raise UnknownRowsError("has constant positions with a value for each row")
    return [Value(x.shape, x.batch_axis, x.inner)]
