"""What is asked of PyTorch on a device, and PyTorch doing it.

Rules of the file: everything is queued on one stream, that of the EXEC lane, and computes in one pool of memory, which
is taken at the start and limited: graphs run one after the other, so each may use what another has used. Nothing here
waits for the device. Not yet run on a real device; tests use an executor that does the same on the CPU.
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
"""Of the workspace, the part that is taken at the start in one piece; the rest is for PyTorch's small pieces."""

_CAPTURING: Final = Lock()
"""One capture at a time in a process: PyTorch's condition."""


class Executor(Protocol):
    """A device as PyTorch sees it. All methods may raise `OutOfDeviceMemoryError`, and RuntimeError as PyTorch does."""

    @property
    def device_type(self) -> str:
        """As PyTorch calls it: ``cuda``."""
        ...

    @property
    def stream(self) -> Handle:
        """What the driver takes for the stream."""
        ...

    def at(self, address: Address, nbytes: Bytes) -> Any:
        """A tensor of the bytes there, which are mapped now; it stays valid when they are unmapped and mapped anew."""
        ...

    def queue(self, compute: Callable[[], ValueT]) -> ValueT:
        """Have the operators that ``compute`` calls executed on the stream, one by one."""
        ...

    def capture(self, compute: Callable[[], ValueT]) -> tuple[Callable[[], None], ValueT]:
        """Record them without executing: a function that queues all of them again.

        ``compute`` has been queued before. Raises RuntimeError if it cannot be recorded.
        """
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

    def __init__(self, index: int, workspace_bytes: Bytes) -> None:
        """Takes ``workspace_bytes`` of the device; PyTorch gets no more than that.

        Raises:
            InvalidRequestError: PyTorch was built without CUDA or cannot use it here, or there is not so much memory.
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
                f"CUDA device {index} has no {show_bytes(workspace_bytes)} to compute in: give less as "
                "--workspace-size or --cache-size"
            ) from error
        except RuntimeError as error:
            raise InvalidRequestError(
                f"PyTorch {torch.__version__} cannot use CUDA device {index}: {describe(error)}"
            ) from error

    @property
    def device_type(self) -> str:
        """See `Executor`."""
        return "cuda"

    @property
    def stream(self) -> Handle:
        """See `Executor`."""
        return int(self._stream.cuda_stream)

    def at(self, address: Address, nbytes: Bytes) -> Any:
        """See `Executor`."""
        return torch.as_tensor(_Bytes(address, nbytes), device=self._device)

    def queue(self, compute: Callable[[], ValueT]) -> ValueT:
        """See `Executor`."""
        with self._on_stream(), torch.cuda.use_mem_pool(self._pool, self._device):
            return compute()

    def capture(self, compute: Callable[[], ValueT]) -> tuple[Callable[[], None], ValueT]:
        """See `Executor`. Other threads may use the device meanwhile."""
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
