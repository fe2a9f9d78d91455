"""Weights in one block of memory, and the tensors that lie in it.

Rules of the file: a layout says where in a block each tensor lies; a block is filled by one copy. The block's memory is
taken from the system for it alone and goes back when nothing refers to it any more: eviction frees for real.
"""

import math
import mmap
from collections.abc import Sequence
from typing import Any, Final

import torch
from msgspec import Struct

from clockwork.units import Bytes

ALIGNMENT: Final[Bytes] = 256
"""Of a tensor in a block: what CUDA's own allocations have, and more than any vector register of a CPU."""


class Place(Struct, frozen=True):
    """Where a tensor lies in a block."""

    offset: Bytes
    nbytes: Bytes
    dtype: Any
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self, block: Any) -> Any:
        """The tensor; ``block`` is a tensor of bytes."""
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype, device=block.device)
        flat = block[self.offset : self.offset + self.nbytes].view(self.dtype)
        return flat.as_strided(self.shape, self.stride)


class Layout(Struct, frozen=True):
    """Where each of a program's weights lies; weights that are one tensor have one place."""

    places: tuple[Place, ...]
    nbytes: Bytes

    def tensors(self, block: Any) -> tuple[Any, ...]:
        """All weights, in the block."""
        return tuple(place.tensor(block) for place in self.places)


def contiguous(kinds: Sequence[tuple[Any, tuple[int, ...]]]) -> Layout:
    """A layout of tensors of these types and shapes, one after the other."""
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
    """A layout of the tensors, and a block that holds them."""
    places: list[Place] = []
    sources: list[Any] = []
    known: dict[Any, Place] = {}
    size = 0
    for it in tensors:
        key = (it.data_ptr(), it.dtype, tuple(it.shape), it.stride()) if it.numel() else None
        place = known.get(key)
        if place is None:
            source = dense(it.detach())
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
    """Zeros, in memory of their own: pages that no allocator keeps."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # a fifth of the time to fill, and to give back
    return memory


def block_in(memory: mmap.mmap) -> Any:
    """The memory as a tensor of bytes, which keeps it."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def host_block(nbytes: Bytes) -> Any:
    """Zeros, as a tensor of bytes, in `host_memory`."""
    return block_in(host_memory(nbytes))


def dense(tensor: Any) -> Any:
    """A tensor as it lies in a block: as it is, in either order of dimensions, or a contiguous copy."""
    if tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor
    return tensor.contiguous()
