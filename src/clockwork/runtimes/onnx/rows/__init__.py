"""Where the rows lie in an ONNX graph; see `clockwork.runtimes.rows`.

`graph` goes through the nodes, `node` is what a rule is given, `folding` computes small tensors such as shapes. The
others hold the rules of operators: `elements`, `axes`, `shapes`, `networks`, `attention`, `quantised`, `classical`.
The graph is the one of the file, so that a proof does not depend on what an optimiser makes of it.
"""

from clockwork.runtimes.onnx.rows.graph import analyse

__all__ = ["analyse"]
