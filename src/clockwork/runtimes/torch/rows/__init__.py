"""Decides from an exported program whether its rows are independent. `clockwork.runtimes.rows` explains the method.

`graph` visits the nodes. `call` defines the argument of a rule. `rules` and `layers` contain the rules of ATen's
operators. ``torch.export`` has already determined all shapes. Sizes that are not fixed are symbols.
"""

from clockwork.runtimes.torch.rows.graph import analyse

__all__ = ["analyse"]
