"""Analyses which values of a graph belong to which row of the input: the proof that requests can share a batch.

Theory of operation. A model may be batched if row i of every output depends only on row i of the inputs: not on other
rows, not on the number of rows, and not on the position of the row in the batch. An analysis of the graph proves this
before anything is executed. It follows the rows through the operators, one operator after another. For each tensor it
knows either that the tensor is the same in every batch, or which axis is the batch axis, along which the rows lie. An
operator that computes along the batch axis mixes rows. An operator without a rule gives no proof.

`size` represents sizes, with the number of rows as an unknown. `value` represents what is known of a tensor. `rules` is
the table of rules. `moves`, `products` and `indexing` hold rules that ONNX and PyTorch share. The rules for the
operators of each library are in `clockwork.runtimes.onnx.rows` and `clockwork.runtimes.torch.rows`.

The package is pure: it executes no model and reads no file. A rule that does not cover a case raises
`UnknownRowsError`; it never guesses.
"""
