"""`CudaRuntime`: from a path to a model in host memory, for CUDA devices. Not yet run on a real device."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Final
from weakref import WeakValueDictionary

import torch

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.torch.archive import find, read
from clockwork.runtimes.torch.cuda.bindings import CudaDriver
from clockwork.runtimes.torch.cuda.driver import Driver
from clockwork.runtimes.torch.cuda.executor import Executor, TorchExecutor
from clockwork.runtimes.torch.cuda.model import CudaModel, Device
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.moving import move
from clockwork.runtimes.torch.program import load
from clockwork.runtimes.torch.runtime import host_info, version
from clockwork.runtimes.torch.tensors import accept_read_only
from clockwork.units import GIB, MIB, Bytes

CACHE_SHARE: Final = 0.8
"""The part of a device's free memory that its weights cache takes if nothing was said; inferences need the rest."""

WORKSPACE_BYTES: Final[Bytes] = 2 * GIB
"""Of each device, for what inferences compute in, if nothing else is said."""

IO_BYTES: Final[Bytes] = 512 * MIB
"""Of each device, and of host memory, for inputs and outputs, if nothing else is said."""

MAX_BATCH: Final = 16
"""The largest batch that a controller asks for if nothing else is said; see
`clockwork.controller.config.ProfilingConfig`."""


def torch_executor(index: int) -> TorchExecutor:
    """PyTorch on a device.

    Raises:
        InvalidRequestError: PyTorch was built without CUDA, or cannot use it here.
    """
    if torch.version.cuda is None:
        raise InvalidRequestError(
            f"PyTorch {torch.__version__} was built without CUDA: install its CUDA build, or use --device cpu"
        )
    try:
        return TorchExecutor(index)
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        raise InvalidRequestError(f"PyTorch {torch.__version__} cannot use CUDA device {index}: {text}") from error


class CudaRuntime:
    """Executes exported programs with PyTorch on CUDA devices. See `clockwork.runtimes.base.Runtime`."""

    def __init__(
        self,
        devices: int,
        page_size: Bytes,
        cache_bytes: Bytes | None,
        pinned_bytes: Bytes,
        workspace_bytes: Bytes = WORKSPACE_BYTES,
        io_bytes: Bytes = IO_BYTES,
        max_batch: int = MAX_BATCH,
        *,
        make_driver: Callable[[int], Driver] = CudaDriver,
        make_executor: Callable[[int], Executor] = torch_executor,
    ) -> None:
        """Takes all pages of all weights caches: ``cache_bytes`` of each device, or `CACHE_SHARE` of what is free.

        ``pinned_bytes``: so much host memory may be pinned for weights. ``workspace_bytes``: what inferences compute
        in. ``io_bytes``: for inputs and outputs, on the device and, pinned, in host memory. ``max_batch``: graphs are
        captured for batches of up to so many rows.

        Raises:
            InvalidRequestError: there are no such devices here, or they have not so much memory.
        """
        accept_read_only()
        self.workspace_bytes, self.io_bytes, self.max_batch = workspace_bytes, io_bytes, max_batch
        executors = [make_executor(i) for i in range(devices)]
        drivers = [make_driver(i) for i in range(devices)]
        kinds = {driver.name for driver in drivers}
        if len(kinds) > 1:
            raise InvalidRequestError(f"devices of one worker are of one kind; found {', '.join(sorted(kinds))}")
        self._kind = f"cuda {drivers[0].name}"
        for driver in drivers:
            driver.attach()
        pages = _pages(drivers, page_size, cache_bytes)
        self.cache_bytes: Bytes = pages * page_size
        self._devices = []
        for driver, executor in zip(drivers, executors, strict=True):
            driver.attach()
            cache = PageCache(driver, pages, page_size)
            self._devices.append(
                Device(driver, cache, executor, driver.make_stream(), driver.make_event(), driver.make_event())
            )
        self._budget = PinnedBudget(drivers[0], pinned_bytes)
        self._lock = Lock()
        self._models: WeakValueDictionary[str, CudaModel] = WeakValueDictionary()

    @property
    def version(self) -> str:
        """Name and version, ``torch 2.13.0``."""
        return version()

    @property
    def device_kind(self) -> str:
        """``cuda NVIDIA H100 80GB HBM3``."""
        return self._kind

    def load_model(self, path: Path) -> CudaModel:
        """Read a model and try it on the CPU. A model of the same content that is in use is returned as it is.

        Raises:
            InvalidModelError: not a model of this runtime, or a broken one.
        """
        file = read(find(path))
        with self._lock:
            model = self._models.get(file.digest)
            if model is None:
                program = load(file.path)
                info = host_info(file, program)
                move(program, self._devices[0].executor.device.type)
                model = self._models[file.digest] = CudaModel(info, program, self._devices, self._budget)
        return model

    def close(self) -> None:
        """Give all pages back. Nothing is loaded any more."""
        for device in self._devices:
            device.driver.attach()
            device.cache.close()


def _pages(drivers: list[Driver], page_size: Bytes, cache_bytes: Bytes | None) -> int:
    """Pages of each device."""
    size: Any = cache_bytes
    if size is None:
        free = []
        for driver in drivers:
            driver.attach()
            free.append(driver.free_bytes())
        size = int(min(free) * CACHE_SHARE)
    if size < page_size:
        raise InvalidRequestError(
            f"a weights cache of {size} bytes has no room for a page of {page_size}: free the device's memory, or give "
            "--cache-size"
        )
    return int(size // page_size)
