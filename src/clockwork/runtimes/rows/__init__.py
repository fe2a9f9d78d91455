"""Which value of a graph belongs to which row of the input: the proof that requests may be put into one batch.

Theory of operation. A model may be batched if row i of every output depends on row i of the inputs and on nothing else
of the batch: not on other rows, not on the number of rows, not on where in the batch the row lies. An analysis of the
graph shows that before anything is executed. It follows the rows through the operators, one by one: for each tensor it
knows whether the tensor is the same for every batch, or which axis the rows lie along. An operator that computes along
that axis mixes rows; an operator without a rule proves nothing.

`size` holds sizes with the number of rows as an unknown, `value` what is known of a tensor, and `moves`, `products` and
`indexing` the rules that operators of ONNX and of PyTorch share. The operators themselves are in
`clockwork.runtimes.onnx.rows` and `clockwork.runtimes.torch.rows`.

Rules of the package: it is pure. It executes no model and reads no file. A rule that does not cover a case raises
`UnknownRowsError`; it never guesses.
"""
