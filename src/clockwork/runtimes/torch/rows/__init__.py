"""Where the rows lie in an exported program; see `clockwork.runtimes.rows`.

`graph` goes through the nodes, `call` is what a rule is given, `rules` and `layers` have the rules of ATen's operators.
Shapes are those that ``torch.export`` has found, with symbols for sizes that are not fixed.
"""

from clockwork.runtimes.torch.rows.graph import analyse

__all__ = ["analyse"]
