"""Nine image networks of 2012 to 2017, from the package onnx.

Rules of the file: a graph of onnx's test data becomes a model that can be served. There, most weights are made while
the graph runs (ConstantOfShape), the batch is always 1, weights are listed as inputs, and Dropout is left from
training. `clockwork.zoo.weights` fills in the weights.
"""

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from clockwork.arrays import Array
from clockwork.errors import ServerError
from clockwork.zoo.weights import fill

INPUT: Final = "data"
"""What every network's input is called: ``data (N, 3, 224, 224) float32``."""

_FILES: Final = {
    "alexnet": "light_bvlc_alexnet",
    "densenet121": "light_densenet121",
    "inception_v1": "light_inception_v1",
    "inception_v2": "light_inception_v2",
    "resnet50": "light_resnet50",
    "shufflenet": "light_shufflenet",
    "squeezenet": "light_squeezenet",
    "vgg19": "light_vgg19",
    "zfnet512": "light_zfnet512",
}


def names() -> tuple[str, ...]:
    """The networks, by the alphabet."""
    return tuple(_FILES)


def model(name: str, chance: np.random.Generator) -> Any:
    """One network, with weights drawn from ``chance``: `INPUT` to ``prob``, or ``logits`` where no Softmax ends it.

    Raises:
        ServerError: the installed onnx has no such test data.
    """
    made = onnx.load_model(_skeleton(name))
    graph = made.graph
    constants = {it.name: numpy_helper.to_array(it) for it in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {it.name: tuple(it.dims) for it in graph.initializer}
    _drop_dropout(graph)
    _take_weights_out(graph, constants, shapes)
    used = {it for node in graph.node for it in node.input}
    integers = {it: constants[it] for it in constants if it in used and constants[it].dtype.kind == "i"}
    _free_batch(graph, integers)
    weights = {it: shape for it, shape in shapes.items() if it in used and it not in integers}
    arrays = integers | fill(name, graph.node, weights, chance)
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(numpy_helper.from_array(array, it) for it, array in arrays.items())
    inputs = [it for it in graph.input if it.name not in shapes]
    del graph.input[:]
    graph.input.extend(inputs)
    _rename(graph)
    made.doc_string = ""
    graph.name = name
    return made


def _skeleton(name: str) -> Path:
    found = importlib.util.find_spec("onnx.backend.test")
    homes = found.submodule_search_locations if found is not None else None
    file = Path(next(iter(homes or ["."]))) / "data" / "light" / f"{_FILES[name]}.onnx"
    if not file.is_file():
        raise ServerError(
            f"onnx {onnx.__version__} has no graph of {name}: there is no backend/test/data/light/{file.name} in it; "
            "install onnx from a wheel"
        )
    return file


def _drop_dropout(graph: Any) -> None:
    """Dropout does nothing at inference."""
    instead: dict[str, str] = {}
    kept = []
    for node in graph.node:  # in order: what a node takes was made before it
        for i, value in enumerate(node.input):
            node.input[i] = instead.get(value, value)
        if node.op_type == "Dropout":
            instead[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _take_weights_out(graph: Any, constants: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> None:
    """Remove the nodes that make weights; note in ``shapes`` what each would have made."""
    kept = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(int(it) for it in constants[node.input[0]])
        elif node.op_type == "Unsqueeze" and node.input[0] in shapes:
            (axes,) = (tuple(it.ints) for it in node.attribute if it.name == "axes")
            shapes[node.output[0]] = np.expand_dims(np.empty(shapes[node.input[0]]), axes).shape
        elif node.op_type == "Reshape" and node.input[0] in shapes:
            shapes[node.output[0]] = tuple(int(it) for it in constants[node.input[1]])
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _free_batch(graph: Any, integers: dict[str, Array]) -> None:
    """Let N be the first dimension, where it is 1."""
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for node in graph.node:
        if node.op_type == "Reshape":
            shape = integers[node.input[1]].copy()
            shape[0] = 0  # as in what is reshaped (ONNX, Reshape)
            integers[node.input[1]] = shape


def _rename(graph: Any) -> None:
    """``gpu_0/data_0`` is a name that nobody wants to type."""
    output = "prob" if graph.node[-1].op_type == "Softmax" else "logits"
    instead = {graph.input[0].name: INPUT, graph.output[0].name: output}
    for node in graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = instead.get(value, value)
    graph.input[0].name, graph.output[0].name = INPUT, output


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
