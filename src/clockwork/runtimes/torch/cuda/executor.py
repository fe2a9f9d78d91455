"""What is asked of PyTorch on a device, and PyTorch doing it.

Rules of the file: everything runs on one stream, that of the EXEC lane; ``run`` returns when the device is done. Not
yet run on a real device; tests use an executor that does the same on the CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch

from clockwork.runtimes.torch.cuda.driver import Address
from clockwork.units import Bytes

Computation: TypeAlias = Callable[[], Sequence[Any]]
"""Runs a program; gives its outputs, which lie on the device."""


class Executor(Protocol):
    """A device as PyTorch sees it."""

    @property
    def device(self) -> Any:
        """A ``torch.device``."""
        ...

    def at(self, address: Address, nbytes: Bytes) -> Any:
        """A tensor of the bytes there, which are mapped now; it stays valid when they are unmapped and mapped anew."""
        ...

    def host_buffer(self, like: Any) -> Any:
        """A tensor in pinned host memory of the same shape and type."""
        ...

    def eager(self, compute: Computation) -> Sequence[Any]:
        """Run on the stream, and wait. What it gives is not touched again by anything on the stream."""
        ...

    def capture(self, compute: Computation) -> tuple[Callable[[], None], Sequence[Any]]:
        """Record without executing: a function that queues all of it again, and the outputs that it writes to.

        Raises RuntimeError if it cannot be recorded.
        """
        ...

    def run(self, work: Callable[[], None]) -> None:
        """Have work queued on the stream, and wait until it is done."""
        ...


class _Bytes:
    """Memory of the device, in the form in which PyTorch takes it from others (``__cuda_array_interface__`` 3)."""

    def __init__(self, address: Address, nbytes: Bytes) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
            "stream": None,
        }


class TorchExecutor:
    """See `Executor`: PyTorch on CUDA device number ``index``."""

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)
        #: One for all graphs of the device: they run one after the other.
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def device(self) -> Any:
        """See `Executor`."""
        return self._device

    def at(self, address: Address, nbytes: Bytes) -> Any:
        """See `Executor`."""
        return torch.as_tensor(_Bytes(address, nbytes), device=self._device)

    def host_buffer(self, like: Any) -> Any:
        """See `Executor`."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def eager(self, compute: Computation) -> Sequence[Any]:
        """See `Executor`."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream), torch.inference_mode():
            outputs = compute()
            self._stream.synchronize()
        return outputs

    def capture(self, compute: Computation) -> tuple[Callable[[], None], Sequence[Any]]:
        """See `Executor`. Other threads may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._device),
            torch.inference_mode(),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            outputs = compute()
        return graph.replay, outputs

    def run(self, work: Callable[[], None]) -> None:
        """See `Executor`."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream), torch.inference_mode():
            work()
            self._stream.synchronize()
