"""Builds nine image networks from the years 2012 to 2017. The package onnx contains their graphs.

This module converts a graph of onnx's test data to a model that can be served. In the test data, the graph itself
computes most weights (ConstantOfShape), and weights are listed as inputs. The batch size is fixed at 1, and the graph
still contains Dropout nodes from training. `clockwork.zoo.weights` generates new weights.
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
"""Name of the input of every network. The input is ``data (N, 3, 224, 224) float32``."""

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
    """Return the names of the networks, sorted."""
    return tuple(_FILES)


def model(name: str, rng: np.random.Generator) -> Any:
    """Return a network with weights drawn from ``rng``.

    The network's output is ``prob``, or ``logits`` if the last node is not a Softmax.

    Raises:
        ServerError: the installed onnx does not contain the graph.
    """
    network = onnx.load_model(_graph_file(name))
    graph = network.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    _remove_dropout(graph)
    _remove_weight_nodes(graph, constants, shapes)
    used = {value for node in graph.node for value in node.input}
    integers = {value: array for value, array in constants.items() if value in used and array.dtype.kind == "i"}
    _free_batch(graph, integers)
    weights = {value: shape for value, shape in shapes.items() if value in used and value not in integers}
    arrays = integers | fill(name, graph.node, weights, rng)
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(numpy_helper.from_array(array, value) for value, array in arrays.items())
    inputs = [info for info in graph.input if info.name not in shapes]
    del graph.input[:]
    graph.input.extend(inputs)
    _rename(graph)
    network.doc_string = ""
    graph.name = name
    return network


def _graph_file(name: str) -> Path:
    found = importlib.util.find_spec("onnx.backend.test")
    directories = found.submodule_search_locations if found is not None else None
    file = Path(next(iter(directories or ["."]))) / "data" / "light" / f"{_FILES[name]}.onnx"
    if not file.is_file():
        raise ServerError(
            f"onnx {onnx.__version__} has no graph of {name}: backend/test/data/light/{file.name} is missing; install "
            "onnx from a wheel"
        )
    return file


def _remove_dropout(graph: Any) -> None:
    """Remove Dropout nodes, which have no effect on inference."""
    replacements: dict[str, str] = {}
    kept = []
    for node in graph.node:  # nodes are in topological order, so the inputs of a node come from earlier nodes
        for i, value in enumerate(node.input):
            node.input[i] = replacements.get(value, value)
        if node.op_type == "Dropout":
            replacements[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _remove_weight_nodes(graph: Any, constants: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> None:
    """Remove the nodes that compute weights. Add the shapes of these weights to ``shapes``."""
    kept = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(int(size) for size in constants[node.input[0]])
        elif node.op_type == "Unsqueeze" and node.input[0] in shapes:
            (axes,) = (tuple(attribute.ints) for attribute in node.attribute if attribute.name == "axes")
            shapes[node.output[0]] = np.expand_dims(np.empty(shapes[node.input[0]]), axes).shape
        elif node.op_type == "Reshape" and node.input[0] in shapes:
            shapes[node.output[0]] = tuple(int(size) for size in constants[node.input[1]])
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _free_batch(graph: Any, integers: dict[str, Array]) -> None:
    """Replace the first dimension, which is 1, with the free dimension N."""
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for node in graph.node:
        if node.op_type == "Reshape":
            shape = integers[node.input[1]].copy()
            shape[0] = 0  # in a Reshape, 0 means the same size as in the input (ONNX)
            integers[node.input[1]] = shape


def _rename(graph: Any) -> None:
    """Give the input and the output short names instead of names such as ``gpu_0/data_0``."""
    output = "prob" if graph.node[-1].op_type == "Softmax" else "logits"
    replacements = {graph.input[0].name: INPUT, graph.output[0].name: output}
    for node in graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = replacements.get(value, value)
    graph.input[0].name, graph.output[0].name = INPUT, output


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
