"""Converts between numpy arrays and tensors that share memory.

Data is copied only where PyTorch requires it. Nothing may write to a tensor that was made from an array. Arrays made
from payloads are read-only, and PyTorch does not check this. Programs that write to their inputs are not loaded
(`clockwork.runtimes.torch.program`).
"""

import warnings
from functools import cache
from typing import Any, Final

import numpy as np
import torch

from clockwork.arrays import Array, dtype_of
from clockwork.messages.tensors import Datatype

DATATYPES: Final[dict[torch.dtype, Datatype]] = {
    torch.bool: Datatype.BOOL,
    torch.uint8: Datatype.UINT8,
    torch.uint16: Datatype.UINT16,
    torch.uint32: Datatype.UINT32,
    torch.uint64: Datatype.UINT64,
    torch.int8: Datatype.INT8,
    torch.int16: Datatype.INT16,
    torch.int32: Datatype.INT32,
    torch.int64: Datatype.INT64,
    torch.float16: Datatype.FP16,
    torch.bfloat16: Datatype.BF16,
    torch.float32: Datatype.FP32,
    torch.float64: Datatype.FP64,
}
"""PyTorch's types of tensors with their datatypes in the protocols. PyTorch has no type for strings."""


@cache
def accept_read_only() -> None:
    """Trigger and discard PyTorch's warning about read-only arrays.

    PyTorch issues this warning only once in a process.
    """
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)


def to_tensor(array: Array) -> Any:
    """Return a tensor that uses the array's memory. Nothing may write to the tensor."""
    if array.dtype.isbuiltin != 1:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: Any) -> Array:
    """Return an array that uses the memory of a CPU tensor. If the tensor is not contiguous, return a copy."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(dtype_of("BF16"))  # type: ignore[no-any-return]
    return tensor.numpy()  # type: ignore[no-any-return]
