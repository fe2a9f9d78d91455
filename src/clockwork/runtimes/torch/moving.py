"""A program for another kind of device: whatever it makes while it runs is made there.

Rules of the file: weights are arguments, so they are not touched. The devices that were written into the graph when it
was exported are replaced by a kind without a number: the device of whoever executes.
"""

from typing import Any

import torch

from clockwork.runtimes.torch.program import Program


def move(program: Program, kind: str) -> None:
    """Rewrite the program's graph, and those within it, for devices of a kind: ``cuda``, ``cpu``."""
    device = torch.device(kind)

    def moved(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    for module in program.graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.args = torch.fx.node.map_aggregate(node.args, moved)
                node.kwargs = torch.fx.node.map_aggregate(node.kwargs, moved)
            module.recompile()
