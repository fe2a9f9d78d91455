"""Rewrites a program for another kind of device, so that it creates its tensors there.

Rules of the file: weights are arguments, so they are not affected. Devices in the exported graph are replaced by the
kind of device without a number, which means the current device of the executing thread.
"""

from typing import Any

import torch

from clockwork.runtimes.torch.program import Program


def move(program: Program, kind: str) -> None:
    """Rewrite the program's graph, and the graphs inside it, for a kind of device: ``cuda`` or ``cpu``."""
    device = torch.device(kind)

    def moved(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    for module in program.graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.args = torch.fx.node.map_aggregate(node.args, moved)
                node.kwargs = torch.fx.node.map_aggregate(node.kwargs, moved)
            module.recompile()
