"""The runtime for PyTorch programs exported with ``torch.export``.

================  ==========================================================================
`archive`         checks of a ``.pt2`` file before PyTorch reads it, and its digest
`program`         an exported program as a function of weights and inputs, and its signature
`writes`          finds the arguments that a program writes to
`shapes`          checks whether a program accepts a combination of input shapes
`weights`         weights in one block of memory, as tensors
`tensors`         conversion between numpy arrays and tensors
`failures`        errors for clients from PyTorch's exceptions
`model`           models in host memory and on CPU devices
`compiled`        compiled code in a file, and whether this machine can run it
`native`          compiled code in this process, with weights at fixed addresses
`compiled_model`  models with compiled code in host memory and on CPU devices
`runtime`         `TorchRuntime`, which uses all of these
`exporting`       exports a module to a ``.pt2`` file
`compiling`       compiles an exported program
================  ==========================================================================

A program is a pure function of its weights and its inputs (`program`). Loading weights therefore creates no program.
The weights are copied into memory and become arguments of the program.
"""

from clockwork.runtimes.torch.runtime import TorchRuntime

__all__ = ["TorchRuntime"]
