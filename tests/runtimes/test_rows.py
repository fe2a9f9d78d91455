"""Which ONNX graphs are proved to compute each row separately, and the reasons for the others."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from clockwork.runtimes.onnx.rows import analyse
from clockwork.runtimes.rows.moves import reshaped
from clockwork.runtimes.rows.size import N, at_most, number, opaque, unknown
from clockwork.runtimes.rows.value import MixesRowsError, Value
from onnx_graphs import FLOAT, model, node, value

INT64 = TensorProto.INT64


def graph(*nodes: Any, shape: tuple[Any, ...] = ("N", 4), kind: int = FLOAT, opset: int = 17, **weights: Any) -> Any:
    """Return a graph from ``x`` to ``y``; the shape of ``y`` is not declared."""
    return model(nodes, [value("x", shape, kind)], [value("y", None, FLOAT)], opset, **weights)


def weights(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def in_domain(proto: Any, domain: str) -> Any:
    """Move the last node into another domain."""
    proto.graph.node[-1].domain = domain
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


TRANSFORMER = (
    node("Shape", "x", "shape"),
    node("Gather", "shape zero", "rows", axis=0),
    node("Gather", "shape one", "length", axis=0),
    node("Unsqueeze", "rows zeros", "rows1"),
    node("Unsqueeze", "length zeros", "length1"),
    node("Concat", "rows1 length1 heads width", "split", axis=0),
    node("Concat", "rows1 length1 all", "joined", axis=0),
    node("MatMul", "x wq", "q"),
    node("Reshape", "q split", "q4"),
    node("Transpose", "q4", "qt", perm=[0, 2, 1, 3]),
    node("Transpose", "q4", "kt", perm=[0, 2, 3, 1]),
    node("MatMul", "qt kt", "scores"),
    node("Softmax", "scores", "shares", axis=3),
    node("MatMul", "shares qt", "mixed"),
    node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
    node("Reshape", "back joined", "merged"),
    node("Add", "x merged", "sum"),
    node("LayerNormalization", "sum scale", "y"),
)
TRANSFORMER_WEIGHTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "zeros": np.array([0]),
    "heads": np.array([2]),
    "width": np.array([4]),
    "all": np.array([8]),
    "wq": weights(8, 8),
    "scale": weights(8),
}

PROVED = {
    "elementwise": graph(node("Tanh", "x", "y")),
    "a constant added to each row": graph(node("Add", "x w", "y"), w=weights(1, 4)),
    "softmax along columns": graph(node("Softmax", "x", "y", axis=-1)),
    "softmax of an old version": graph(node("Softmax", "x", "y", axis=1), opset=11),
    "topk along columns": graph(node("TopK", "x k", "y i"), k=np.array([2])),
    "a transformer layer that reshapes by Shape": graph(*TRANSFORMER, shape=("N", "L", 8), **TRANSFORMER_WEIGHTS),
    "sequences first": graph(
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("LSTM", "t w r", "o h", hidden_size=3),
        node("Squeeze", "h zeros", "y"),
        shape=("N", 5, 4),
        w=weights(1, 12, 4),
        r=weights(1, 12, 3),
        zeros=np.array([0]),
    ),
    "an LSTM with an initial state for each row": graph(
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Shape", "x", "s", start=0, end=1),
        node("Concat", "one s three", "size", axis=0),
        node("ConstantOfShape", "size", "zeros"),
        helper.make_node("LSTM", ["t", "w", "r", "", "", "zeros", "zeros"], ["o", "h"], hidden_size=3),
        node("Squeeze", "h axis", "y"),
        shape=("N", 5, 4),
        w=weights(1, 12, 4),
        r=weights(1, 12, 3),
        axis=np.array([0]),
        one=np.array([1]),
        three=np.array([3]),
    ),
    "heads merged with rows": graph(
        node("Reshape", "x merged", "m"),
        node("Softmax", "m", "s", axis=-1),
        node("Reshape", "s apart", "y"),
        shape=("N", 3, 4),
        merged=np.array([-1, 4]),
        apart=np.array([-1, 3, 4]),
    ),
    "a convolution": graph(node("Conv", "x w", "y"), shape=("N", 3, 8, 8), w=weights(2, 3, 3, 3)),
    "a convolution, flattened to a known size": graph(
        node("Conv", "x w", "c"),
        node("Reshape", "c s", "y"),
        shape=("N", 3, 8, 8),
        w=weights(2, 3, 3, 3),
        s=np.array([-1, 72]),
    ),
    "a table": graph(node("Gather", "w x", "y"), kind=INT64, w=weights(9, 3)),
    "positions added": graph(
        node("Shape", "x", "s", start=1, end=2),
        node("Squeeze", "s", "l"),
        node("Range", "zero l one", "p"),
        node("Gather", "w p", "e"),
        node("Add", "x e", "y"),
        shape=("N", "L", 3),
        w=weights(9, 3),
        zero=np.int64(0),
        one=np.int64(1),
    ),
    "a slice that takes all rows": graph(node("Slice", "x a b", "y"), a=np.array([0, 1]), b=np.array([1 << 40, 3])),
    "an If that is decided by a constant": graph(
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=helper.make_graph([node("Neg", "x", "a")], "t", [], [value("a", None)]),
            else_branch=helper.make_graph([node("CumSum", "x zero", "b")], "e", [], [value("b", None)]),
        ),
        c=np.bool_(True),
        zero=np.int64(0),
    ),
    "quantised by a constant": graph(
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y"), s=np.float32(0.1), z=np.uint8(3)
    ),
    "linear regression": in_domain(graph(node("LinearRegressor", "x", "y", coefficients=[1.0] * 4)), "ai.onnx.ml"),
}

MIXED = {
    "TopK": graph(node("TopK", "x k", "y i", axis=0), k=np.array([1])),
    "CumSum": graph(node("CumSum", "x a", "y"), a=np.int64(0)),
    "ReduceMean": graph(node("ReduceMean", "x", "y", axes=[0])),
    "ArgMax": graph(node("ArgMax", "x", "i", axis=0), node("Add", "x i", "y")),
    "Softmax": graph(node("Softmax", "x", "y", axis=0)),
    "NonZero": graph(node("NonZero", "x", "y")),
    "Unique": graph(node("Unique", "x", "y")),
    "MatMul": graph(node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "x t", "y")),
    "Einsum": graph(node("Einsum", "x x", "y", equation="ij,kj->ik")),
    "DynamicQuantizeLinear": graph(node("DynamicQuantizeLinear", "x", "y s z")),
    "BatchNormalization": graph(node("BatchNormalization", "x w w w w", "y m v", training_mode=1), w=weights(4)),
    "RandomNormalLike": graph(node("RandomNormalLike", "x", "r"), node("Add", "x r", "y")),
    "Range": graph(
        node("Shape", "x", "s", start=0, end=1),
        node("Squeeze", "s", "n"),
        node("Range", "z n o", "r"),
        node("Unsqueeze", "r o1", "c"),
        node("Cast", "c", "f", to=FLOAT),
        node("Add", "x f", "y"),
        z=np.int64(0),
        o=np.int64(1),
        o1=np.array([1]),
    ),
    "Mul": graph(node("Size", "x", "n"), node("Cast", "n", "f", to=FLOAT), node("Mul", "x f", "y")),
    "Gather": graph(node("Gather", "x i", "y"), i=np.array([0])),
    "Slice": graph(
        node("Slice", "x a b c d", "y"), a=np.array([-1]), b=np.array([-(1 << 40)]), c=np.array([0]), d=np.array([-1])
    ),
    "If": graph(
        node("ReduceSum", "x", "s", keepdims=0),
        node("Greater", "s zero", "c"),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=helper.make_graph([node("Neg", "x", "a")], "t", [], [value("a", None)]),
            else_branch=helper.make_graph([node("Abs", "x", "b")], "e", [], [value("b", None)]),
        ),
        zero=np.float32(0),
    ),
    "MaxPool": graph(
        node("MaxPool", "x", "p i", kernel_shape=[2]), node("Cast", "i", "y", to=FLOAT), shape=("N", 2, 8)
    ),
    "LSTM": graph(
        node("LSTM", "x w r", "y", hidden_size=3), shape=("N", 5, 4), w=weights(1, 12, 4), r=weights(1, 12, 3)
    ),
    "ScatterND": graph(node("ScatterND", "x i u", "y"), i=np.array([[0]]), u=weights(1, 4)),
    "Add": graph(node("Add", "x w", "y"), w=weights(2, 4)),
}


@pytest.mark.parametrize("name", PROVED)
def test_a_graph_that_computes_each_row_separately_is_proved(name: str) -> None:
    assert analyse(PROVED[name]).reason == ""
    assert analyse(PROVED[name]).proved


@pytest.mark.parametrize("operator", MIXED)
def test_an_operator_that_mixes_rows_is_named(operator: str) -> None:
    proof = analyse(MIXED[operator])
    assert not proof.proved
    if operator != "If":
        assert proof.mixes
        assert proof.reason.startswith((f"{operator} '", "ReduceSum '"))


LOOP = helper.make_node(
    "Loop",
    ["times", "", "w"],
    ["z"],
    body=helper.make_graph(
        [node("Identity", "c", "c2"), node("ReduceSum", "x", "s", keepdims=0), node("Add", "a s", "b")],
        "body",
        [value("i", [], INT64), value("c", [], TensorProto.BOOL), value("a", [1])],
        [value("c2", [], TensorProto.BOOL), value("b", [1])],
    ),
)
ROWS = (node("Shape", "x", "n", start=0, end=1),)


@pytest.mark.parametrize(
    "proto",
    [
        graph(LOOP, node("Add", "x z", "y"), times=np.int64(1), w=weights(1)),
        graph(*ROWS, node("TopK", "x n", "t i", axis=1), node("ReduceSum", "t", "y", axes=[1])),
        graph(
            *ROWS,
            node("Slice", "x zero n one", "s"),
            node("ReduceSum", "s", "y", axes=[1]),
            zero=np.array([0]),
            one=np.array([1]),
        ),
        graph(
            *ROWS, node("Squeeze", "n", "k"), node("Unsqueeze", "x a", "u"), node("Trilu", "u k", "y"), a=np.array([1])
        ),
        graph(*ROWS, node("Gather", "w n", "g"), node("Add", "x g", "y"), w=weights(9, 4)),
        graph(
            *ROWS,
            node("OneHot", "i n v", "o"),
            node("ReduceSum", "o", "y", axes=[1]),
            kind=INT64,
            shape=("N",),
            v=np.array([0.0, 1.0], "f4"),
            i=np.array([1]),
        ),
    ],
    ids=["Loop", "TopK", "Slice", "Trilu", "Gather", "OneHot"],
)
def test_indirect_dependencies_on_the_batch_are_not_proved(proto: Any) -> None:
    assert not analyse(proto).proved


def with_second_input(*nodes: Any, **weights: Any) -> Any:
    """Return a graph with inputs ``x`` and ``m``, whose second dimensions have the same name."""
    inputs = [value("x", ("N", "L", 8)), value("m", ("N", "L"))]
    return model(nodes, inputs, [value("y", None, FLOAT)], **weights)


def test_dimensions_with_the_same_name_may_differ() -> None:
    lengths = (node("Shape", "m", "l", start=1, end=2), node("Concat", "all l width", "s", axis=0))
    proto = with_second_input(
        *lengths, node("Reshape", "x s", "r"), node("CumSum", "r one", "c"), node("Shape", "x", "n"),
        node("Reshape", "c n", "y"), all=np.array([-1]), width=np.array([8]), one=np.int64(1),
    )  # fmt: skip
    assert not analyse(proto).proved


def test_a_transformer_with_a_mask_is_proved() -> None:
    masked = [node("Unsqueeze", "m between", "mask")]
    for layer in TRANSFORMER:
        if layer.op_type == "Softmax":
            masked += [node("Add", "scores mask", "sums"), node("Softmax", "sums", "shares", axis=3)]
        else:
            masked.append(layer)
    assert analyse(with_second_input(*masked, between=np.array([1, 2]), **TRANSFORMER_WEIGHTS)).proved


def test_the_reason_names_the_axis_and_the_node() -> None:
    proto = graph(helper.make_node("TopK", ["x", "k"], ["y", "i"], name="topk_0", axis=0), k=np.array([1]))
    assert analyse(proto).reason == "TopK 'topk_0' computes across rows (axis 0)"


def test_an_operator_without_a_rule_gives_no_proof() -> None:
    proto = in_domain(graph(node("Frobnicate", "x", "y")), "com.example")
    proof = analyse(proto)
    assert (proof.proved, proof.mixes) == (False, False)
    assert proof.reason == "Frobnicate 'y' is an operator without a rule"


def test_nodes_that_no_output_depends_on_are_ignored() -> None:
    proto = graph(node("CumSum", "x a", "z"), node("Neg", "x", "y"), a=np.int64(0))
    assert analyse(proto).proved


def test_accepting_one_scale_accepts_no_other_mixing() -> None:
    quantised = MIXED["DynamicQuantizeLinear"]
    assert analyse(quantised, one_scale=True).proved
    assert not analyse(MIXED["CumSum"], one_scale=True).proved


def test_functions_in_the_model_are_analysed() -> None:
    proto = in_domain(graph(node("Sum0", "x", "y")), "local")
    body = helper.make_function(
        "local", "Sum0", ["a"], ["b"], [node("ReduceSum", "a", "b", keepdims=1)], [helper.make_opsetid("", 17)]
    )
    proto.functions.append(body)
    assert analyse(proto).reason.startswith("ReduceSum '")


@pytest.mark.parametrize("kind", ["value_info", "initializer"])
def test_shapes_declared_for_intermediate_tensors_are_not_trusted(kind: str) -> None:
    proto = graph(node("ReduceSum", "x", "s", axes=[0], keepdims=1), node("Add", "x s", "y"))
    if kind == "value_info":
        proto.graph.value_info.append(value("s", ["N", 4]))
    else:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights(1, 4), "s2"))
    assert analyse(proto).mixes


# ------------------------------------------------------------------------------------------------------------ sizes


def test_sizes_are_polynomials() -> None:
    length = unknown("$L")
    assert (N + number(2)) * length == N * length + length * number(2)
    assert (N * length * number(6)).divided(length * number(3)) == N * number(2)
    assert (N + number(1)).divided(N) is None
    assert (N - N).value == 0
    assert at_most(number(512), number(7)) == number(7)
    assert opaque("a" * 1000) == opaque("a" * 1000)
    assert opaque("a" * 1000) != opaque("b" * 1000)
    assert (N + number(1)).exceeds(number(1))
    assert not length.exceeds(number(0))


def test_a_reshape_finds_rows_by_their_position_in_memory() -> None:
    length = unknown("$L")
    images = Value((N, number(6), length), batch_axis=0)
    merged = reshaped(images, (N * number(2), number(3), length))
    assert (merged.batch_axis, merged.inner) == (0, number(2))
    assert reshaped(merged, images.shape) == images
    with pytest.raises(MixesRowsError, match="reshapes \\[N, 6\\] to \\[6, N\\]"):
        reshaped(Value((N, number(6)), batch_axis=0), (number(6), N))
