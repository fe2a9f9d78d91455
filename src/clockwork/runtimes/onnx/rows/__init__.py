"""Decides from an ONNX graph whether its rows are independent. `clockwork.runtimes.rows` explains the method.

`graph` visits the nodes. `node` defines the argument of a rule. `folding` computes small tensors such as shapes. The
other modules contain the rules of operators: `elements`, `axes`, `shapes`, `networks`, `attention`, `quantised` and
`classical`. The analysis reads the graph of the model file, not the optimised graph. So a proof does not depend on the
optimiser.
"""

from clockwork.runtimes.onnx.rows.graph import analyse

__all__ = ["analyse"]
