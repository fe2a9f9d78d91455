"""ONNX Runtime: on the CPU the runtime that is always there; on CUDA devices, where its build for them is installed.

=============  =========================================================================================
`files`        from a path to a model file, its external data and its digest
`signature`    what a graph takes and gives, in the vocabulary's words
`prepared`     the graph, optimised once; its weights beside it, used in place by every session
`sessions`     ONNX Runtime itself: the only module that makes a session or runs one
`packing`      is it worth it to pack weights anew in every session?
`heap`         what a session takes of memory beside its weights
`closing`      when to destroy a session, so that no inference waits for it
`model`        the two hands that a model passes through: in host memory, and on a device
`cache`        prepared graphs on disk, so that a restart need not optimise again
`runtime`      `OnnxRuntime`: all of it together
`gpus`         what its provider for CUDA devices needs: libraries, options, an arena for each device
`cuda`         `OnnxCudaRuntime`: models on such devices; imported only when asked for
=============  =========================================================================================
"""

from clockwork.runtimes.onnx.runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
