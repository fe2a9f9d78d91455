"""Loads exported programs into host memory for CUDA devices. This code has not run on a real device yet."""

import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.runtimes.batching import BatchingOptions, BatchingPolicy
from clockwork.runtimes.common import ModelRuntime
from clockwork.runtimes.torch.archive import ModelFile, find, read
from clockwork.runtimes.torch.cuda.bindings import CudaDriver
from clockwork.runtimes.torch.cuda.device import Device
from clockwork.runtimes.torch.cuda.driver import Driver
from clockwork.runtimes.torch.cuda.examples import MAX_BATCH
from clockwork.runtimes.torch.cuda.executor import Executor, TorchExecutor
from clockwork.runtimes.torch.cuda.model import CudaModel
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.cuda.resident import Resident
from clockwork.runtimes.torch.cuda.staging import Staging
from clockwork.runtimes.torch.moving import move
from clockwork.runtimes.torch.program import Program, load
from clockwork.runtimes.torch.runtime import program_info, use_threads, version
from clockwork.runtimes.torch.tensors import accept_read_only
from clockwork.units import GIB, MIB, Bytes, show_bytes

CACHE_SHARE: Final = 0.9
"""Share of the memory that the weights cache takes by default, after workspace and I/O memory are subtracted. Graphs
and the driver use the rest.
"""

WORKSPACE_BYTES: Final[Bytes] = 2 * GIB
"""Default size of the workspace on each device."""

IO_BYTES: Final[Bytes] = 512 * MIB
"""Default size of the memory for inputs and outputs, on each device and in the host."""

PINNED_BYTES: Final[Bytes] = 64 * GIB
"""Default limit of pinned host memory for weights."""


class CudaRuntime(ModelRuntime[ModelFile, CudaModel]):
    """Executes exported programs with PyTorch on CUDA devices; see `clockwork.runtimes.base.Runtime`."""

    def __init__(
        self,
        devices: int,
        page_size: Bytes,
        cache_bytes: Bytes | None = None,
        pinned_bytes: Bytes = PINNED_BYTES,
        workspace_bytes: Bytes = WORKSPACE_BYTES,
        io_bytes: Bytes = IO_BYTES,
        max_batch: int = MAX_BATCH,
        *,
        make_driver: Callable[[int], Driver] = CudaDriver,
        make_executor: Callable[[int, Bytes], Executor] = TorchExecutor,
        batching: BatchingOptions | None = None,
    ) -> None:
        """Allocate the memory of each device.

        The weights cache gets ``cache_bytes``. By default, it gets the share `CACHE_SHARE` of the memory that remains.

        ``pinned_bytes`` is the limit of pinned host memory for weights. ``workspace_bytes`` is the memory in which
        inferences compute. ``io_bytes`` is the memory for inputs and outputs. This memory is allocated on the device
        and, as pinned memory, in the host. Graphs are captured for batches of up to ``max_batch`` rows.

        Raises:
            InvalidRequestError: the devices do not exist, or have too little memory.
        """
        if devices < 1 or max_batch < 1:
            raise InvalidRequestError(
                f"{devices} CUDA devices and a largest batch of {max_batch} rows are not possible: both must be at "
                "least 1"
            )
        accept_read_only()
        use_threads(1)  # one thread is enough, because the host only launches kernels
        self.max_batch = max_batch
        drivers = [make_driver(i) for i in range(devices)]
        kinds = {driver.name for driver in drivers}
        if len(kinds) > 1:
            raise InvalidRequestError(
                f"devices are of different kinds: {', '.join(sorted(kinds))}; all devices of a worker must be of one "
                "kind"
            )
        super().__init__(version(), f"cuda {drivers[0].name}", batching)
        parts: list[tuple[Driver, Executor, Staging]] = []
        for i, driver in enumerate(drivers):
            driver.attach()
            parts.append((driver, make_executor(i, workspace_bytes), Staging(driver, io_bytes)))
        pages = _pages(drivers, page_size, cache_bytes)
        self.cache_bytes: Bytes = pages * page_size
        self.devices: list[Device] = []
        for i, (driver, executor, staging) in enumerate(parts):
            driver.attach()
            cache = PageCache(driver, pages, page_size)
            self.devices.append(Device(i, driver, executor, cache, staging))
        self._budget = PinnedBudget(drivers[0], pinned_bytes)
        self._unreferenced: deque[tuple[list[Resident], Program]] = deque()

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path, by the rules of `clockwork.runtimes.locating.locate`."""
        return find(path, name, self.links)

    def _read(self, path: Path) -> ModelFile:
        file = read(path)
        if file.compiled:
            raise InvalidModelError(
                f"{file.path.name!r} contains code compiled for CPUs, which GPUs cannot run: export the program "
                "without "
                "--compile"
            )
        return file

    def close(self) -> None:
        """Free all memory. Nothing may be loaded, and no model may be in use."""
        with self._lock:
            self._release_unused()
        for device in self.devices:
            device.close()

    def _prepare(self, file: ModelFile, policy: BatchingPolicy) -> CudaModel:
        program = load(file.path)
        info = program_info(file, program, policy)
        move(program, self.devices[0].executor.device_type)
        model = CudaModel(info, program, self.devices, self._budget, self.max_batch, file.path.name)
        # A model that nothing refers to any more is not loaded on any device, because a loaded model refers to its
        # model. The garbage collector may destroy such a model at any moment and in any thread. At that moment, the
        # resources of the model are only recorded for a later release.
        weakref.finalize(model, self._unreferenced.append, (model.residents, program)).atexit = False
        model.prepare()
        return model

    def _release_unused(self) -> None:
        while self._unreferenced:
            residents, program = self._unreferenced.popleft()
            for resident in residents:
                resident.close()
            self._budget.unpin(program.weights.data_ptr())


def _pages(drivers: list[Driver], page_size: Bytes, cache_bytes: Bytes | None) -> int:
    """Return the number of pages of each device."""
    free = []
    for driver in drivers:
        driver.attach()
        free.append(driver.free_bytes())
    size = int(min(free) * CACHE_SHARE) if cache_bytes is None else cache_bytes
    if size < page_size:
        raise InvalidRequestError(
            f"weights cache of {show_bytes(size)} is smaller than a page of {show_bytes(page_size)}; {drivers[0].name} "
            "has "
            f"{show_bytes(min(free))} free: free its memory, or set --cache-size"
        )
    return size // page_size
