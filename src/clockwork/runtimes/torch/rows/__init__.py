"""Finds the axis of the rows in each tensor of an exported program; see `clockwork.runtimes.rows`.

`graph` visits the nodes, `call` is the argument of a rule, and `rules` and `layers` have the rules of ATen's operators.
Shapes are those found by ``torch.export``, with symbols for sizes that are not fixed.
"""

from clockwork.runtimes.torch.rows.graph import analyse

__all__ = ["analyse"]
