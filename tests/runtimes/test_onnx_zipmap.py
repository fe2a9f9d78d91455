"""A classifier that ends with a ZipMap is served with the tensor of probabilities behind it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from clockwork.errors import InvalidModelError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import spec
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.signature import signature
from clockwork.runtimes.ort import onnxruntime
from onnx_graphs import saved, value

COEFFICIENTS = [1.0, -1.0, 0.5, 0.25, -0.5, 2.0]
KINDS: dict[str, dict[str, Any]] = {
    "integers": {"classlabels_int64s": [7, 8, 9]},
    "strings": {"classlabels_strings": ["setosa", "versicolor", "virginica"]},
}


def classifier(kind: str, zipmap: bool) -> Any:
    """Return a model like those of skl2onnx: ``x [N, 2]`` to ``label [N]`` and ``probabilities``."""
    labels = KINDS[kind]
    name = {"classlabels_int64s": "classlabels_ints"}.get(next(iter(labels)), next(iter(labels)))
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=COEFFICIENTS,
            intercepts=[0.0, 0.1, 0.2],
            post_transform="SOFTMAX",
            **{name: next(iter(labels.values()))},
        )
    ]
    if zipmap:
        nodes.append(helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **labels))
        key = TensorProto.STRING if kind == "strings" else TensorProto.INT64
        element = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        row = helper.make_map_type_proto(key, element)
        output = helper.make_value_info("probabilities", helper.make_sequence_type_proto(row))
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["probabilities"]))
        output = value("probabilities", ["N", 3])
    label = value("label", ["N"], TensorProto.STRING if kind == "strings" else TensorProto.INT64)
    graph = helper.make_graph(nodes, "classifier", [value("x", ["N", 2])], [label, output])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tensor_behind_a_zipmap_is_served(kind: str, tmp_path: Path) -> None:
    model = OnnxRuntime().load_model(saved(classifier(kind, True), tmp_path / "model.onnx"))
    assert [output.describe() for output in model.info.outputs][1] == "probabilities FP32[-1,3]"
    assert (
        model.info.batchable
        == OnnxRuntime().load_model(saved(classifier(kind, False), tmp_path / "b.onnx")).info.batchable
    )
    rows = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)
    loaded = model.load_weights(0)
    request = InferInput(1, 2, (spec("x", "FP32", rows.shape),))
    outputs = loaded.execute(loaded.assemble([request], [rows.tobytes()]))
    expected = onnxruntime.InferenceSession(classifier(kind, True).SerializeToString()).run(None, {"x": rows})
    assert list(outputs[0]) == list(expected[0])
    labels = next(iter(KINDS[kind].values()))
    for row, probabilities in zip(outputs[1], expected[1], strict=True):
        assert list(row) == [probabilities[label] for label in labels], "columns are in the order of the labels"


def test_a_dictionary_without_a_tensor_behind_it_names_the_option_of_the_converter() -> None:
    output = SimpleNamespace(name="probabilities", type="seq(map(int64,tensor(float)))", shape=[])
    with pytest.raises(InvalidModelError, match=r"a dictionary for each row; convert .*options=\{'zipmap': False\}"):
        signature([], [output])
