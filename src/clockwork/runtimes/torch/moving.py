"""Rewrites a program so that it creates its tensors on another kind of device.

The weights are arguments of the program, so the rewrite does not affect them. Each device in the exported graph is
replaced with a kind of device without a number. PyTorch then uses the current device of the executing thread.
"""

from typing import Any

import torch

from clockwork.runtimes.torch.program import Program


def move(program: Program, kind: str) -> None:
    """Rewrite a program for a kind of device, ``cuda`` or ``cpu``.

    Graphs inside the program's graph are rewritten as well.
    """
    device = torch.device(kind)

    def moved(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    for module in program.graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.args = torch.fx.node.map_aggregate(node.args, moved)
                node.kwargs = torch.fx.node.map_aggregate(node.kwargs, moved)
            module.recompile()
