"""Runs `CudaRuntime` on a fake device or on a real one."""

import gc
from typing import Any

from runtimes.torch.programs import Conv  # skips the importing tests if PyTorch is not installed

import torch  # isort: skip

from clockwork.runtimes.torch.cuda.runtime import CudaRuntime  # isort: skip
from clockwork.units import GIB, MIB  # isort: skip
from runtimes.torch.fake_driver import FakeDriver, FakeExecutor  # isort: skip

PAGE = 16 * MIB
MAX_BATCH = 4

#: Tolerances by kind of device. A real device computes products and convolutions with fewer bits (TF32) and in another
#: order.
TOLERANCE: dict[str, dict[str, Any]] = {"fake": {"rtol": 1e-4, "atol": 1e-5}, "cuda": {"rtol": 2e-2, "atol": 5e-3}}

__all__ = ["MAX_BATCH", "PAGE", "TOLERANCE", "Conv", "Machine"]


class Machine:
    """A runtime with its driver and executor."""

    def __init__(
        self,
        kind: str,
        devices: int = 1,
        pages: int = 8,
        pinned: int = GIB,
        capturable: bool = True,
    ) -> None:
        """``capturable`` applies only to a fake device."""
        self.drivers = [FakeDriver() for _ in range(devices)] if kind == "fake" else []
        below: dict[str, Any] = {}
        if self.drivers:
            for driver in self.drivers:
                driver.attach()
            executors = [FakeExecutor(driver, capturable) for driver in self.drivers]
            below["make_driver"] = self.drivers.__getitem__
            below["make_executor"] = lambda index, workspace: executors[index]
        self.runtime = CudaRuntime(devices, PAGE, pages * PAGE, pinned, 256 * MIB, 64 * MIB, MAX_BATCH, **below)
        if self.drivers:
            for device, executor in zip(self.runtime.devices, executors, strict=True):
                executor.area = device.staging.output_area

    def end(self) -> None:
        """Free all memory. Nothing may refer to a model."""
        gc.collect()
        self.runtime.close()
        for driver in self.drivers:
            driver.check_nothing_is_left()


def free_bytes() -> int:
    """Return the free memory of the real device, including PyTorch's reserve."""
    gc.collect()
    torch.cuda.empty_cache()
    free: int = torch.cuda.mem_get_info(0)[0]
    return free
