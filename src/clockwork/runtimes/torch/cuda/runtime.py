"""`CudaRuntime`: from a path to a model in host memory, for CUDA devices. Not yet run on a real device."""

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
from clockwork.runtimes.torch.cuda.executor import Executor, TorchExecutor
from clockwork.runtimes.torch.cuda.foreseen import MAX_BATCH
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
"""The part of what is free, once workspace and I/O memory are taken, that the weights cache takes if nothing was said;
graphs, and whatever the driver needs, have the rest."""

WORKSPACE_BYTES: Final[Bytes] = 2 * GIB
"""Of each device, for what inferences compute in, if nothing else is said."""

IO_BYTES: Final[Bytes] = 512 * MIB
"""Of each device, and of host memory, for inputs and outputs, if nothing else is said."""

PINNED_BYTES: Final[Bytes] = 64 * GIB
"""Of host memory, for weights, if nothing else is said."""


class CudaRuntime(ModelRuntime[ModelFile, CudaModel]):
    """Executes exported programs with PyTorch on CUDA devices. See `clockwork.runtimes.base.Runtime`."""

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
        """Takes all memory of each device: ``cache_bytes`` of weights, or `CACHE_SHARE` of what the others leave.

        ``pinned_bytes``: so much host memory may be pinned for weights. ``workspace_bytes``: what inferences compute
        in. ``io_bytes``: for inputs and outputs, on the device and, pinned, in host memory. ``max_batch``: graphs are
        captured for batches of up to so many rows.

        Raises:
            InvalidRequestError: there are no such devices here, or they have not so much memory.
        """
        if devices < 1 or max_batch < 1:
            raise InvalidRequestError(f"{devices} CUDA devices and batches of {max_batch} rows make no sense")
        accept_read_only()
        use_threads(1)  # the host only launches
        self.max_batch = max_batch
        drivers = [make_driver(i) for i in range(devices)]
        kinds = {driver.name for driver in drivers}
        if len(kinds) > 1:
            raise InvalidRequestError(f"devices of one worker are of one kind; found {', '.join(sorted(kinds))}")
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
        self._forgotten: deque[tuple[list[Resident], Program]] = deque()

    def _read(self, path: Path) -> ModelFile:
        file = read(find(path))
        if file.compiled:
            raise InvalidModelError(
                f"{file.path.name!r} has code in it that was compiled for CPUs; on GPUs programs are captured as "
                "graphs instead: export it without --compile"
            )
        return file

    def close(self) -> None:
        """Give all memory back. Nothing is loaded any more, and no model in use."""
        with self._lock:
            self._release_unused()
        for device in self.devices:
            device.close()

    def _prepare(self, file: ModelFile, policy: BatchingPolicy) -> CudaModel:
        program = load(file.path)
        info = program_info(file, program, policy)
        move(program, self.devices[0].executor.device_type)
        model = CudaModel(info, program, self.devices, self._budget, self.max_batch, file.path.name)
        # Loaded models refer to their model, so nothing is loaded when nobody refers to it any more. That may be found
        # out at any moment and in any thread, so what is left is only noted then.
        weakref.finalize(model, self._forgotten.append, (model.residents, program)).atexit = False
        model.prepare()
        return model

    def _release_unused(self) -> None:
        while self._forgotten:
            residents, program = self._forgotten.popleft()
            for it in residents:
                it.close()
            self._budget.unpin(program.weights.data_ptr())


def _pages(drivers: list[Driver], page_size: Bytes, cache_bytes: Bytes | None) -> int:
    """Pages of each device."""
    free = []
    for driver in drivers:
        driver.attach()
        free.append(driver.free_bytes())
    size = int(min(free) * CACHE_SHARE) if cache_bytes is None else cache_bytes
    if size < page_size:
        raise InvalidRequestError(
            f"a weights cache of {show_bytes(size)} has no room for a page of {show_bytes(page_size)}, with "
            f"{show_bytes(min(free))} of {drivers[0].name} free: free its memory, or give --cache-size"
        )
    return size // page_size
