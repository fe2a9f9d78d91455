"""Proves from the graph of a model that requests can share a batch.

Theory of operation. A model may be batched if row i of every output depends only on row i of the inputs. The output
must not depend on other rows, on the number of rows, or on the position of the row in the batch. An analysis of the
graph proves this before anything is executed. The analysis visits the operators in order, and follows the rows through
each operator. For each tensor, the analysis finds the axis along which the rows lie (the batch axis). A tensor that is
the same in every batch has no batch axis. An operator that computes along the batch axis mixes rows. If an operator has
no rule, there is no proof.

`size` represents sizes that may depend on the number of rows. `value` represents the known properties of a tensor.
`rules` is the table of rules. `moves`, `products` and `indexing` contain rules that ONNX and PyTorch share. The rules
for the operators of each library are in `clockwork.runtimes.onnx.rows` and `clockwork.runtimes.torch.rows`.

The package is pure: it executes no model and reads no file. A rule never guesses. A rule that does not cover a case
raises `UnknownRowsError`.
"""
