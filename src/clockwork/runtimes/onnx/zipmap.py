"""Replaces each ZipMap operator of a graph with its input tensor, because no protocol can transfer a ZipMap's output.

Converters of scikit-learn models end the graph with a ZipMap. The input of a ZipMap is a tensor of probabilities with a
row for each row of the model's input and a column for each label. The ZipMap converts each row to a dictionary, but
tensor protocols have no dictionaries. So the input tensor becomes the model's output, under the name of the ZipMap's
output. This tensor contains the same numbers as the ZipMap's output.
"""

from typing import Any, Final

import onnx

_DOMAIN: Final = "ai.onnx.ml"


def replace_zipmaps(graph: Any) -> bool:
    """Replace each ZipMap that makes an output of the graph. Return whether there was a ZipMap."""
    used = {name for node in graph.node for name in node.input}
    outputs = {value.name: value for value in graph.output if value.name not in used}
    replaced = False
    for node in graph.node:
        if node.op_type != "ZipMap" or node.domain != _DOMAIN or len(node.input) != 1 or len(node.output) != 1:
            continue
        output = outputs.get(node.output[0])
        if output is None:
            continue
        labels = [len(attribute.strings) or len(attribute.ints) for attribute in node.attribute]
        _describe(output, graph, sum(labels))
        del node.attribute[:]
        node.op_type, node.domain = "Identity", ""
        replaced = True
    return replaced


def _describe(output: Any, graph: Any, columns: int) -> None:
    """Declare the output as a tensor with a row for each row of the graph's first input."""
    shape = onnx.TensorShapeProto()
    rows = shape.dim.add()
    first = graph.input[0].type.tensor_type.shape.dim if graph.input else ()
    if first:
        rows.CopyFrom(first[0])
    shape.dim.add(dim_value=columns)
    output.type.Clear()
    output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    output.type.tensor_type.shape.CopyFrom(shape)
