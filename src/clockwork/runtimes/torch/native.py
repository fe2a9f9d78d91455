"""Compiled code in this process: mapped once, with weights at addresses of its own.

Theory of operation. Code that AOTInductor made keeps pointers to its weights, and a container of it has one set. What
PyTorch (2.13) notes of weights that somebody else holds is never freed, so they are told once, when a container is
made: a range of addresses is reserved and handed over as weights. LoadWeights fills the range, EvictWeights gives its
pages back to the system, and addresses stay: as on CUDA devices (`clockwork.runtimes.torch.cuda`), done by the kernel.

The code is mapped from memory without a name in any directory, so nothing of it is left on a disk. C++ libraries of GNU
have symbols that must be unique in a process, and stay mapped until it ends; the loader, which knows libraries by their
path, must never meet another one at the same. So whatever was mapped is kept, and found again by its content.
"""

import ctypes
import mmap
import os
from collections.abc import Mapping, Sequence
from threading import Lock, local
from typing import Any, Final

import torch

from clockwork.errors import InvalidModelError, ServerError
from clockwork.runtimes.torch.compiled import Code
from clockwork.runtimes.torch.failures import FAILURES, describe
from clockwork.runtimes.torch.weights import Layout, block_in, host_memory

LIBRARIES_MAX: Final = 1024
"""So much code is mapped in one process; each has a file descriptor, and stays."""

_lock = Lock()
_mapped: dict[str, int] = {}
_threads = local()


def hold_threads(count: int) -> None:
    """Let compiled code compute with ``count`` threads when this thread calls it.

    OpenMP has such a number for each thread, and PyTorch sets it when one of its own operators comes first.
    """
    if getattr(_threads, "count", None) != count:
        torch.set_num_threads(count)
        _threads.count = count


def path_of(code: Code) -> str:
    """A path by which the code can be mapped, as often as one likes.

    Raises:
        ServerError: there is no memory for it, or too much is mapped already.
    """
    with _lock:
        file = _mapped.get(code.description.sha256)
        if file is None:
            if len(_mapped) >= LIBRARIES_MAX:
                raise ServerError(
                    f"{LIBRARIES_MAX} pieces of compiled code are mapped, and none can be unmapped: restart the worker"
                )
            file = _mapped[code.description.sha256] = _in_memory(code.binary)
    return f"/proc/self/fd/{file}"


def _in_memory(content: bytes) -> int:
    try:
        file = os.memfd_create("clockwork-compiled")
    except OSError as error:
        raise ServerError(f"compiled code cannot be mapped: {error.strerror}") from error
    try:
        with os.fdopen(file, "wb", closefd=False) as target:
            target.write(content)
    except OSError as error:
        os.close(file)
        raise ServerError(f"there is no memory for {len(content)} bytes of compiled code: {error.strerror}") from error
    return file


class Container:
    """Compiled code with weights at addresses of its own, which `fill` fills and `empty` gives back."""

    def __init__(self, code: Code, layout: Layout, names: Sequence[str]) -> None:
        """``names``: of the weights in the layout.

        Raises:
            InvalidModelError: the code cannot be mapped, or wants other weights.
        """
        self._memory = host_memory(layout.nbytes)
        self._block = block_in(self._memory)
        self._begin: int = self._block.data_ptr()
        self._end: int = self._begin + len(self._memory)
        try:
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(path_of(code), 1)  # noqa: SLF001
            places = dict(zip(names, layout.tensors(self._unowned()), strict=True))
            weights = _weights(self._runner.get_constant_names_to_original_fqns(), places)
            self._runner.update_constant_buffer(weights, False, True, True)  # active, all of them, held by us
        except FAILURES as error:
            raise InvalidModelError(f"the compiled code cannot be used: {describe(error)}") from error

    def _unowned(self) -> Any:
        """The block as a tensor that does not keep it: what PyTorch notes of it is never freed."""
        memory = (ctypes.c_uint8 * self._block.nbytes).from_address(self._begin)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def fill(self, weights: Any) -> None:
        """Copy the weights into the container's memory."""
        self._block.copy_(weights)

    def empty(self) -> None:
        """Give the memory back to the system; the addresses stay."""
        self._memory.madvise(mmap.MADV_DONTNEED)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Call the code. No output is a part of the weights' memory."""
        return [it.clone() if self._holds(it) else it for it in self._runner.run(inputs)]

    def _holds(self, tensor: Any) -> bool:
        return self._begin <= int(tensor.data_ptr()) < self._end


def _weights(wanted: Mapping[str, str], places: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by the names that the code has for them; ``wanted`` are the program's names by those."""
    unknown = sorted(set(wanted.values()) - places.keys())
    if unknown:
        raise InvalidModelError(f"the compiled code wants weights that its program does not have: {', '.join(unknown)}")
    return {name: places[original] for name, original in wanted.items()}
