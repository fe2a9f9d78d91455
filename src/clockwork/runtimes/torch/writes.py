"""Finds the arguments that a program writes to.

``torch.export`` keeps operators that write in place. This module finds the argument to which the written memory
belongs. The module follows views with the help of the operators' schemas. In a schema, ``Tensor(a!)`` marks an argument
that the operator writes to, and ``Tensor(a)`` marks an argument that shares memory with the result.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch


def written_placeholders(graph: Any) -> Iterator[str]:
    """Yield the names of the graph's arguments to which an operator of the graph writes."""
    for node in graph.nodes:
        for source in _aliased(node, written=True):
            for root in _roots(source):
                yield str(root.name)


def _roots(node: Any) -> Iterator[Any]:
    """Yield the placeholders that may share memory with the node's value."""
    if node.op == "placeholder":
        yield node
    elif node.op == "call_function" and node.target is operator.getitem:
        yield from _roots(node.args[0])
    else:
        for source in _aliased(node, written=False):
            yield from _roots(source)


def _aliased(node: Any, written: bool) -> Iterator[Any]:
    """Yield the arguments to which the node's operator writes, or the arguments that may share its result's memory."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - as torch.fx does
        return
    for i, declared in enumerate(node.target._schema.arguments):  # noqa: SLF001 - there is no public way
        alias = declared.alias_info
        if alias is None or (written and not alias.is_write):
            continue
        argument = node.args[i] if i < len(node.args) else node.kwargs.get(declared.name)
        for source in argument if isinstance(argument, list | tuple) else [argument]:
            if isinstance(source, torch.fx.Node):
                yield source
