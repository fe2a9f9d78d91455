"""Maps compiled code into this process, with weights at fixed addresses.

Theory of operation. Code from PyTorch's compiler AOTInductor stores pointers to its weights in a *container*. PyTorch
2.13 never frees its records of weights that the caller owns. So weights are registered only once, when a container is
created. At that time, a range of addresses is reserved and registered as the weights. LoadWeights fills this range.
EvictWeights returns the pages of the range to the system, and the addresses stay reserved. On CUDA devices, weights are
loaded in the same way (`clockwork.runtimes.torch.cuda`). On CPUs, the operating system maps the pages.

The code is mapped from an anonymous file in memory, so no copy of the code stays on a disk. A library that GNU C++ has
compiled stays mapped until the process exits, because it contains symbols that must be unique in the process. The
loader identifies libraries by their path, so two libraries must never have the same path. Therefore, mapped libraries
are kept, and are used again for code with the same content.
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

MAX_LIBRARIES: Final = 1024
"""Limit of the libraries that are mapped in one process. Each library needs a file descriptor and stays mapped."""

_lock = Lock()
_mapped: dict[str, int] = {}
_threads = local()


def use_own_threads(count: int) -> None:
    """Make compiled code use ``count`` threads when the calling thread executes it.

    OpenMP stores this number for each thread. PyTorch sets the number only when the thread calls one of PyTorch's
    operators.
    """
    if getattr(_threads, "count", None) != count:
        torch.set_num_threads(count)
        _threads.count = count


def path_of(code: Code) -> str:
    """Return a path to the code. The code can be mapped from this path any number of times.

    Raises:
        ServerError: there is no memory for the code, or too many libraries are mapped.
    """
    with _lock:
        file = _mapped.get(code.description.sha256)
        if file is None:
            if len(_mapped) >= MAX_LIBRARIES:
                raise ServerError(
                    f"the limit of {MAX_LIBRARIES} libraries of compiled code is reached; restart the worker to unmap "
                    "them"
                )
            file = _mapped[code.description.sha256] = _in_memory(code.binary)
    return f"/proc/self/fd/{file}"


def _in_memory(content: bytes) -> int:
    try:
        file = os.memfd_create("clockwork-compiled")
    except OSError as error:
        raise ServerError(f"cannot map compiled code: {error.strerror}") from error
    try:
        with os.fdopen(file, "wb", closefd=False) as target:
            target.write(content)
    except OSError as error:
        os.close(file)
        raise ServerError(f"no memory for {len(content)} bytes of compiled code: {error.strerror}") from error
    return file


class Container:
    """Compiled code with weights at fixed addresses.

    `fill` copies the weights to these addresses. `empty` frees their memory.
    """

    def __init__(self, code: Code, layout: Layout, names: Sequence[str]) -> None:
        """Map the code. ``names`` are the names of the weights in the layout.

        Raises:
            InvalidModelError: the code cannot be mapped, or needs different weights.
        """
        self._memory = host_memory(layout.nbytes)
        self._block = block_in(self._memory)
        self._begin: int = self._block.data_ptr()
        self._end: int = self._begin + len(self._memory)
        try:
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(path_of(code), 1)  # noqa: SLF001
            places = dict(zip(names, layout.tensors(self._unowned()), strict=True))
            weights = _weights(self._runner.get_constant_names_to_original_fqns(), places)
            self._runner.update_constant_buffer(
                weights, False, True, True
            )  # arguments: use the active set; check all weights; the caller owns the memory
        except FAILURES as error:
            raise InvalidModelError(f"cannot use the compiled code: {describe(error)}") from error

    def _unowned(self) -> Any:
        """Return the block as a tensor that does not keep the block alive.

        PyTorch never frees its record of the tensor.
        """
        memory = (ctypes.c_uint8 * self._block.nbytes).from_address(self._begin)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def fill(self, weights: Any) -> None:
        """Copy the weights into the container's memory."""
        self._block.copy_(weights)

    def empty(self) -> None:
        """Return the memory to the system. The addresses stay reserved."""
        self._memory.madvise(mmap.MADV_DONTNEED)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Call the code. Outputs that use the memory of the weights are copied."""
        return [output.clone() if self._holds(output) else output for output in self._runner.run(inputs)]

    def _holds(self, tensor: Any) -> bool:
        return self._begin <= int(tensor.data_ptr()) < self._end


def _weights(wanted: Mapping[str, str], places: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights by their names in the code.

    ``wanted`` maps the names in the code to the names in the program.
    """
    unknown = sorted(set(wanted.values()) - places.keys())
    if unknown:
        raise InvalidModelError(f"the compiled code needs weights that its program lacks: {', '.join(unknown)}")
    return {name: places[original] for name, original in wanted.items()}
