"""Runtimes execute models on devices. Each runtime wraps one library and implements the interface in `base`.

No runtime imports another. The runtimes share these modules:

=================  =============================================================================================
`common`           the base class of runtimes, model information and error texts
`locating`         finds the model file for a path
`signature`        inputs and outputs of a model
`batches`          assembles requests into a batch and splits the outputs
`batching`         decides from the graph and the operator's options whether requests may share a batch
`rows`             the analysis of the graph for that decision
`probe`            tries a prepared model on random inputs
`examples`         finds inputs that a model accepts, for trials and for measurements
`given`            reads the inputs that the operator gives for a model
`random_elements`  elements of inputs: random numbers, zeros, or repeated elements of an example
`trial`            compares the outputs of rows executed alone with those of the same rows in a batch
`config_pbtxt`     reads Triton's config.pbtxt
`text_format`      parses protobuf's text format, which config.pbtxt uses
`hardware`         the name of the CPU
`nvidia`           the NVIDIA GPUs of this machine
`by_file`          one runtime that chooses between ONNX Runtime and PyTorch by the name of the file
`ort`              the only module that imports ONNX Runtime
=================  =============================================================================================
"""
