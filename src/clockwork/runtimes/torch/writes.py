"""What a program writes to while it runs, besides memory of its own.

Rules of the file: ``torch.export`` leaves operators that write in place as the module has them. To whose memory they
write is followed back along views, as the operators' schemas tell: ``Tensor(a!)`` is written to, ``Tensor(a)`` is the
same memory as the result.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch


def written_placeholders(graph: Any) -> Iterator[str]:
    """The names of the graph's arguments that an operator in it writes to."""
    for node in graph.nodes:
        for source in _aliased(node, written=True):
            for root in _roots(source):
                yield str(root.name)


def _roots(node: Any) -> Iterator[Any]:
    """The placeholders whose memory the node's value may be."""
    if node.op == "placeholder":
        yield node
    elif node.op == "call_function" and node.target is operator.getitem:
        yield from _roots(node.args[0])
    else:
        for source in _aliased(node, written=False):
            yield from _roots(source)


def _aliased(node: Any, written: bool) -> Iterator[Any]:
    """Arguments of the node's operator that it writes to, or any of which its result may be the same memory."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - as torch.fx does
        return
    for i, declared in enumerate(node.target._schema.arguments):  # noqa: SLF001 - there is no other way to ask
        alias = declared.alias_info
        if alias is None or (written and not alias.is_write):
            continue
        given = node.args[i] if i < len(node.args) else node.kwargs.get(declared.name)
        for it in given if isinstance(given, list | tuple) else [given]:
            if isinstance(it, torch.fx.Node):
                yield it
