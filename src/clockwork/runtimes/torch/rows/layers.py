"""Rules for ATen's layers, such as products, convolutions, pooling, normalisation, recurrent layers and attention."""

import re
from typing import Final

from clockwork.runtimes.rows.moves import along, broadcast, check_no_rows, transposed
from clockwork.runtimes.rows.products import einsum, matmul
from clockwork.runtimes.rows.size import ONE
from clockwork.runtimes.rows.value import ACROSS, MixesRowsError, UnknownRowsError, Value, across_error
from clockwork.runtimes.torch.rows.call import Call, Result, rule

_DIMENSIONS: Final = re.compile(r"(\d)d")
NORMALISED_BY_BATCH: Final = "normalises by the mean of the whole batch, as in training"
ONE_SCALE: Final = "chooses one scale for the whole batch"


@rule("mm", "bmm", "matmul", "mv", "dot")
def product(call: Call) -> Result:
    """Rule of operators that multiply two tensors."""
    left, right = call.tensors()
    return matmul(left, right)


@rule("addmm", "baddbmm", "addmv")
def product_and_sum(call: Call) -> Result:
    """Rule of operators that multiply two tensors and add a third."""
    added, left, right = call.tensors()
    call.check_numbers()
    return broadcast([matmul(left, right), added])


@rule("linear")
def linear(call: Call) -> Result:
    """Rule of operators that multiply with transposed weights and add a bias."""
    weights = call.value("weight")
    check_no_rows(weights, *call.tensors("bias"))
    return matmul(call.first, transposed(weights, list(range(weights.rank))[::-1]))


@rule("einsum")
def einstein(call: Call) -> Result:
    """Rule of Einstein sums, which sum products by the labels of an equation."""
    return einsum(call.get("equation", ""), call.tensors("tensors"))


@rule(
    "convolution",
    "_convolution",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
def convolution(call: Call) -> Result:
    """Rule of convolutions, which compute each row separately with the same weights."""
    x, weights = call.first, call.value("weight")
    check_no_rows(weights, *call.tensors("bias"))
    if x.rank != weights.rank:
        raise UnknownRowsError("has an input without an axis for rows")
    return along(x, range(1, x.rank))


_POOLS: Final = [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)]
_UPSAMPLES: Final = (
    "nearest1d", "nearest2d", "nearest3d", "_nearest_exact1d", "_nearest_exact2d", "_nearest_exact3d",
    "linear1d", "bilinear2d", "bicubic2d", "trilinear3d",
)  # fmt: skip


@rule(
    *_POOLS,
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    *(f"upsample_{kind}".replace("upsample__", "_upsample_") for kind in _UPSAMPLES),
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)
def last_axes(call: Call) -> Result:
    """Rule of operators that compute along the last 1 to 3 axes. Indices of maxima count within each channel."""
    x = call.first
    found = _DIMENSIONS.search(call.operator)
    assert found is not None
    return [along(x, range(x.rank - int(found[1]), x.rank))] * 2


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(call: Call) -> Result:
    """Rule of grid samplers, which sample each row at the positions in the row's grid."""
    x, grid = call.tensors()
    if (x.batch_axis, x.inner) != (grid.batch_axis, grid.inner) or x.batch_axis not in (None, 0):
        raise MixesRowsError(f"{ACROSS}: rows and grids do not correspond one by one")
    return Value(x.shape, x.batch_axis, x.inner)


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
def batch_norm(call: Call) -> Result:
    """Rule of batch normalisation, which uses the means from training."""
    x = call.first
    if call.get("training", False) or not call.tensors("running_mean"):
        raise MixesRowsError(NORMALISED_BY_BATCH)
    check_no_rows(*call.tensors("weight", "bias", "running_mean", "running_var"))
    axes = (1,) if x.rank > 1 else (0,)
    return [along(x, axes), Value(call.shapes[-1]), Value(call.shapes[-1])]


@rule("group_norm", "native_group_norm", "instance_norm")
def group_norm(call: Call) -> Result:
    """Rule of group normalisation, which normalises over the channels and positions of each row."""
    x = call.first
    check_no_rows(*call.tensors("weight", "bias", "running_mean", "running_var"))
    normalised = along(x, range(1, x.rank))
    return [normalised, normalised, normalised]


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Result:
    """Rule of layer normalisation, which normalises along the last axes."""
    x = call.first
    check_no_rows(*call.tensors("weight", "bias"))
    axes = range(x.rank - len(call.get("normalized_shape", [])), x.rank)
    return [along(x, axes)] + [along(x, axes, dict.fromkeys(axes, ONE))] * 2


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Result:
    """Rule of recurrent layers, which process sequences with a state for each row."""
    x = call.first
    states = call.tensors("hx")
    rows = 0 if call.get("batch_first", False) else 1
    check_no_rows(*call.tensors("params"))
    if call.get("train", False) and call.get("dropout", 0.0):
        raise MixesRowsError("drops elements at random, as in training")
    if (
        x.rank != 3
        or x.batch_axis != rows
        or any(state.batch_axis != 1 or state.rank != 3 or state.inner != x.inner for state in states)
    ):
        if x.batch_axis is not None and x.batch_axis != rows:
            raise across_error(x)
        raise UnknownRowsError("has a state that does not correspond to the rows one by one")
    return [
        Value(x.shape, x.batch_axis, x.inner),
        *(Value(state.shape, state.batch_axis, state.inner) for state in states),
    ]


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def attention(call: Call) -> Result:
    """Rule of attention, which computes each row and each head separately."""
    q = call.value("query")
    if call.get("dropout_p", 0.0):
        raise MixesRowsError("drops elements at random, as in training")
    for tensor in call.tensors("query", "key", "value"):
        if (tensor.batch_axis, tensor.rank, tensor.inner) != (q.batch_axis, q.rank, q.inner):
            raise MixesRowsError(f"{ACROSS}: its inputs do not correspond one by one")
    if q.batch_axis is not None and q.batch_axis > q.rank - 3:
        raise across_error(q)
    heads = Value((*q.shape[:-2], ONE, ONE), q.batch_axis, q.inner)
    for mask in call.tensors("attn_mask"):
        if mask.batch_axis is not None and (
            mask.batch_axis > mask.rank - 3 or mask.rank > q.rank or q.batch_axis is None
        ):
            raise MixesRowsError(f"{ACROSS}: its mask does not correspond to the rows one by one")
        broadcast([heads, mask])
    return [Value(q.shape, q.batch_axis, q.inner), Value(q.shape[:-1], q.batch_axis, q.inner)]


@rule(
    "quantized_decomposed.quantize_per_tensor",
    "quantized_decomposed.dequantize_per_tensor",
    "quantized_decomposed.quantize_per_channel",
    "quantized_decomposed.dequantize_per_channel",
)
def quantised(call: Call) -> Result:
    """Rule of quantisation with one constant scale, or with a constant scale for each position along an axis."""
    x = call.first
    for tensor in call.tensors():
        if tensor is not x and tensor.batch_axis is not None:
            raise UnknownRowsError("has a scale computed from rows")
    return along(x, (call.axis(x.rank, name="axis"),) if "channel" in call.operator else ())


@rule("quantized_decomposed.choose_qparams", "quantized_decomposed.choose_qparams_symmetric")
def one_scale(call: Call) -> Result:
    """Rule of quantisation with a scale that is computed from the whole tensor."""
    if call.first.batch_axis is not None and not call.arguments.get("one_scale"):
        raise MixesRowsError(ONE_SCALE)
    return [Value(()), Value(())]
