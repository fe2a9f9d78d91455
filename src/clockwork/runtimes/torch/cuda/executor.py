"""Defines the interface to PyTorch on a device, and implements it.

All work is queued on one stream, EXEC. The work uses one pool of memory, which has a limit and is allocated at the
start. Graphs are executed one after the other, so they can share this memory. No method waits for the device. This code
has not run on a real device yet. Tests use an executor that computes on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, Protocol, TypeVar

import torch

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.torch.cuda.driver import Address, Handle, OutOfDeviceMemoryError
from clockwork.runtimes.torch.failures import describe
from clockwork.units import Bytes, show_bytes

ValueT = TypeVar("ValueT")

TAKEN_SHARE: Final = 0.9
"""Share of the workspace that is allocated in one piece at the start. PyTorch's small allocations use the rest of the
workspace.
"""

_CAPTURING: Final = Lock()
"""Held during a capture, because PyTorch allows only one capture at a time in a process."""


class Executor(Protocol):
    """PyTorch on a device. All methods may raise `OutOfDeviceMemoryError`, or RuntimeError for errors of PyTorch."""

    @property
    def device_type(self) -> str:
        """Type of the device as PyTorch names it, such as ``cuda``."""
        ...

    @property
    def stream(self) -> Handle:
        """The stream EXEC, as a handle for the driver."""
        ...

    def at(self, address: Address, nbytes: Bytes) -> Any:
        """Return a tensor of the bytes at a mapped address.

        The tensor stays valid if different pages are mapped to the address.
        """
        ...

    def queue(self, compute: Callable[[], ValueT]) -> ValueT:
        """Call ``compute``. The operators that ``compute`` calls are queued on the stream one by one."""
        ...

    def capture(self, compute: Callable[[], ValueT]) -> tuple[Callable[[], None], ValueT]:
        """Record the operators that ``compute`` calls, without executing them. Return a function that queues them all.

        `queue` must have called ``compute`` before. If ``compute`` cannot be recorded, RuntimeError is raised.
        """
        ...


class _Bytes:
    """Memory of the device in a form that PyTorch accepts (version 3 of ``__cuda_array_interface__``)."""

    def __init__(self, address: Address, nbytes: Bytes) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
            "stream": None,
        }


class TorchExecutor:
    """Implements `Executor` with PyTorch on CUDA device number ``index``."""

    def __init__(self, index: int, workspace_bytes: Bytes) -> None:
        """Allocate ``workspace_bytes`` of the device's memory. PyTorch may not use more memory than this.

        Raises:
            InvalidRequestError: PyTorch has no CUDA or cannot use it, or the device has too little memory.
        """
        if torch.version.cuda is None:
            raise InvalidRequestError(
                f"PyTorch {torch.__version__} was built without CUDA: install its CUDA build, or use --device cpu"
            )
        try:
            self._device = torch.device("cuda", index)
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, workspace_bytes / total), self._device)
            self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call,unused-ignore]
            with torch.cuda.device(self._device):
                self._pool: Any = torch.cuda.MemPool()
            self.queue(lambda: torch.empty(int(workspace_bytes * TAKEN_SHARE), dtype=torch.uint8, device=self._device))
        except OutOfDeviceMemoryError as error:
            raise InvalidRequestError(
                f"CUDA device {index} has less than {show_bytes(workspace_bytes)} free for the workspace: use a "
                "smaller "
                "--workspace-size or --cache-size"
            ) from error
        except RuntimeError as error:
            raise InvalidRequestError(
                f"PyTorch {torch.__version__} cannot use CUDA device {index}: {describe(error)}"
            ) from error

    @property
    def device_type(self) -> str:
        """Type of the device as PyTorch names it, such as ``cuda``."""
        return "cuda"

    @property
    def stream(self) -> Handle:
        """The stream EXEC, as a handle for the driver."""
        return int(self._stream.cuda_stream)

    def at(self, address: Address, nbytes: Bytes) -> Any:
        """Return a tensor of the bytes at a mapped address.

        The tensor stays valid if different pages are mapped to the address.
        """
        return torch.as_tensor(_Bytes(address, nbytes), device=self._device)

    def queue(self, compute: Callable[[], ValueT]) -> ValueT:
        """Call ``compute``. The operators that ``compute`` calls are queued on the stream one by one."""
        with self._on_stream(), torch.cuda.use_mem_pool(self._pool, self._device):
            return compute()

    def capture(self, compute: Callable[[], ValueT]) -> tuple[Callable[[], None], ValueT]:
        """Record the operators that ``compute`` calls, without executing them. Return a function that queues them all.

        Other threads may use the device during the call.
        """
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, self._pool.id, self._stream, capture_error_mode="thread_local")
        with _CAPTURING, self._on_stream(), recording:
            value = compute()

        def replay() -> None:
            with self._on_stream():
                graph.replay()

        return replay, value

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream), torch.inference_mode():
                yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
                raise OutOfDeviceMemoryError(describe(error)) from error
            raise
