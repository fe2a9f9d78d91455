"""Executes ONNX models with ONNX Runtime, on CPUs or, if its CUDA build is installed, on CUDA devices.

=============  =========================================================================================
`files`        finds a model file and its external data, and computes their digest
`signature`    inputs and outputs of a graph
`prepared`     the optimised graph, and its weights, which every session uses in place
`sessions`     opens and runs sessions; no other module does this
`packing`      decides whether sessions pack weights
`closing`      chooses the moment to destroy a session, so that no inference waits for it
`model`        a model in host memory, and a model that is loaded on a device
`cache`        prepared models on disk, so that a restart need not optimise them again
`rows`         the analysis that decides whether requests can share a batch
`runtime`      `OnnxRuntime`, which combines all of these
`gpus`         libraries, options, and a memory arena for each device, which the CUDA provider needs
`cuda`         `OnnxCudaRuntime`: models on CUDA devices; imported only if CUDA devices are requested
=============  =========================================================================================
"""

from clockwork.runtimes.onnx.runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
