"""PyTorch: programs made by ``torch.export``, executed as they are.

================  ====================================================================================================
`archive`         what a ``.pt2`` file must be before PyTorch sees it, and its digest
`program`         an exported program as a function of weights and inputs, and what it takes and gives
`writes`          what a program writes to while it runs, besides memory of its own
`shapes`          which shapes of inputs go together
`weights`         weights in one block of memory, and the tensors that lie in it
`tensors`         numpy arrays <-> tensors
`failures`        whose fault it is when PyTorch raises
`model`           the two hands that a model passes through, on CPU devices
`compiled`        compiled code in a file: what it was compiled for, and whether this machine is that
`native`          compiled code in this process, with weights at addresses of its own
`compiled_model`  the two hands again, for compiled code
`runtime`         `TorchRuntime`: all of it together
`exporting`       from a module to a ``.pt2`` file
`compiling`       from an exported program to compiled code
================  ====================================================================================================

Rules of the room: a program is a pure function of its weights and its inputs (`program`), so nothing of it is made when
weights are loaded: they are put into memory, and handed over as arguments.
"""

from clockwork.runtimes.torch.runtime import TorchRuntime

__all__ = ["TorchRuntime"]
