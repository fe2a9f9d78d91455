"""Stores all weights of a program in one block of memory.

A layout contains the place of each tensor in a block. One copy operation fills a block. Each block gets its memory
directly from the system. The memory is returned to the system as soon as nothing refers to the block. So an eviction
frees memory at once.
"""

import math
import mmap
from collections.abc import Sequence
from typing import Any, Final

import torch
from msgspec import Struct

from clockwork.units import Bytes

ALIGNMENT: Final[Bytes] = 256
"""Alignment of a tensor in a block, in bytes. CUDA's allocations have this alignment, and no vector register is larger.
"""


class Place(Struct, frozen=True):
    """The place of a tensor in a block."""

    offset: Bytes
    nbytes: Bytes
    dtype: Any
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self, block: Any) -> Any:
        """Return the tensor at this place. ``block`` is a tensor of bytes."""
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype, device=block.device)
        flat = block[self.offset : self.offset + self.nbytes].view(self.dtype)
        return flat.as_strided(self.shape, self.stride)


class Layout(Struct, frozen=True):
    """The places of a program's weights.

    If the program uses a tensor under several names, these weights share one place.
    """

    places: tuple[Place, ...]
    nbytes: Bytes

    def tensors(self, block: Any) -> tuple[Any, ...]:
        """Return all weights as tensors in the block."""
        return tuple(place.tensor(block) for place in self.places)


def contiguous(kinds: Sequence[tuple[Any, tuple[int, ...]]]) -> Layout:
    """Return a layout of contiguous tensors of these types and shapes. The tensors follow one another."""
    places: list[Place] = []
    size = 0
    for dtype, shape in kinds:
        strides = [1]
        for dim in reversed(shape[1:]):
            strides.append(strides[-1] * max(1, dim))
        nbytes = math.prod(shape) * dtype.itemsize
        places.append(Place(size, nbytes, dtype, shape, tuple(reversed(strides[: len(shape)]))))
        size += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return Layout(tuple(places), size)


def packed(tensors: Sequence[Any]) -> tuple[Layout, Any]:
    """Return a layout of the tensors, and a block that contains the tensors."""
    places: list[Place] = []
    sources: list[Any] = []
    known: dict[Any, Place] = {}
    size = 0
    for tensor in tensors:
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()) if tensor.numel() else None
        place = known.get(key)
        if place is None:
            source = dense(tensor.detach())
            place = Place(size, source.nbytes, source.dtype, tuple(source.shape), source.stride())
            size += -(-source.nbytes // ALIGNMENT) * ALIGNMENT
            sources.append((place, source))
            if key is not None:
                known[key] = place
        places.append(place)
    layout = Layout(tuple(places), size)
    block = host_block(size)
    for place, source in sources:
        place.tensor(block).copy_(source)
    return layout, block


def host_memory(nbytes: Bytes) -> mmap.mmap:
    """Return zeroed memory directly from the system, so that no allocator keeps the pages after use."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # huge pages make filling and freeing five times as fast
    return memory


def block_in(memory: mmap.mmap) -> Any:
    """Return the memory as a tensor of bytes. The tensor keeps the memory alive."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def host_block(nbytes: Bytes) -> Any:
    """Return a tensor of zero bytes in new `host_memory`."""
    return block_in(host_memory(nbytes))


def dense(tensor: Any) -> Any:
    """Return the tensor if its memory is dense (contiguous or channels-last). Otherwise, return a contiguous copy."""
    if tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor
    return tensor.contiguous()
