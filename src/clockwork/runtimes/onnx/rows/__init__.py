"""The analysis of rows for ONNX graphs; see `clockwork.runtimes.rows`.

`graph` visits the nodes, `node` is the argument of a rule, and `folding` computes small tensors such as shapes. The
other modules hold the rules of operators: `elements`, `axes`, `shapes`, `networks`, `attention`, `quantised`,
`classical`. The analysed graph is that of the model file, so a proof does not depend on the optimiser.
"""

from clockwork.runtimes.onnx.rows.graph import analyse

__all__ = ["analyse"]
