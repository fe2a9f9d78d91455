"""Errors of the driver are reported; the driver is a fake. `make test-gpu` checks the calls on a real device."""

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from clockwork.runtimes.nvidia import NO_DRIVER
from runtimes.torch import programs  # noqa: F401 - skips these tests without PyTorch

from clockwork.errors import DeviceLostError, InvalidRequestError  # isort: skip
from clockwork.runtimes.torch.cuda import bindings
from clockwork.runtimes.torch.cuda.bindings import LOST, CudaDriver
from clockwork.runtimes.torch.cuda.clock import Clock, make_clock
from clockwork.runtimes.torch.cuda.driver import CudaError, OutOfDeviceMemoryError
from clockwork.units import MIB, ms

NAMES = ("CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_VALUE", *sorted(LOST))
CUresult = IntEnum("CUresult", [(name, i) for i, name in enumerate(NAMES)])  # type: ignore[misc]


class FakeBindings:
    """Replaces the module of bindings: each function returns a given value, or that of a working device."""

    CUresult = CUresult
    CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED=102)
    CUmemAllocationType = SimpleNamespace(CU_MEM_ALLOCATION_TYPE_PINNED=1)
    CUmemLocationType = SimpleNamespace(CU_MEM_LOCATION_TYPE_DEVICE=1)
    CUmemAccess_flags = SimpleNamespace(CU_MEM_ACCESS_FLAGS_PROT_READWRITE=3)
    CUmemAllocationGranularity_flags = SimpleNamespace(CU_MEM_ALLOC_GRANULARITY_MINIMUM=0)

    def __init__(self, **values: Any) -> None:
        self.values = {
            "cuDriverGetVersion": 13_000,
            "cuDeviceGetCount": 2,
            "cuDeviceGet": 0,
            "cuDeviceGetAttribute": 1,
            "cuDevicePrimaryCtxRetain": 7,
            "cuDeviceGetName": b"A device" + bytes(8),
            "cuDeviceGetPCIBusId": b"0000:01:00.0" + bytes(4),
            "cuMemGetAllocationGranularity": 2 * MIB,
            "cuEventElapsedTime": 1.25,
            "cuMemGetInfo": (3, 5),
            **values,
        }

    def CUmemAllocationProp(self) -> Any:  # noqa: N802
        return SimpleNamespace(location=SimpleNamespace())

    def CUmemAccessDesc(self) -> Any:  # noqa: N802
        return SimpleNamespace(location=SimpleNamespace())

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> tuple[Any, ...]:
            found = self.values.get(name)
            if isinstance(found, Exception):
                raise found
            if isinstance(found, CUresult):
                return (found, None)
            values = found if isinstance(found, tuple) else () if found is None else (found,)
            return (CUresult["CUDA_SUCCESS"], *values)

        return function


def driver(monkeypatch: pytest.MonkeyPatch, device: int = 0, **values: Any) -> CudaDriver:
    monkeypatch.setattr(bindings, "_bindings", lambda: FakeBindings(**values))
    monkeypatch.setattr(bindings, "make_clock", lambda bus_id: {"0000:01:00.0": lambda: 1980}[bus_id])
    return CudaDriver(device)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"cuInit": RuntimeError("libcuda.so.1: not found")},
            f"{NO_DRIVER}: install NVIDIA's",
        ),
        (
            {"cuInit": CUresult["CUDA_ERROR_NO_DEVICE"]},
            "cannot use CUDA: cuInit failed with CUDA_ERROR_NO_DEVICE",
        ),
        ({"cuDriverGetVersion": 11_080}, "driver supports CUDA 11.8; the minimum is 12.0: update the driver"),
        ({"cuDeviceGetCount": 0}, "CUDA device 0 does not exist: 0 are visible; use fewer --devices"),
        ({"cuDeviceGetAttribute": 0}, "CUDA device 0 does not support virtual memory management"),
    ],
)
def test_the_error_for_an_unsuitable_machine_states_the_reason(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        driver(monkeypatch, **values)


def test_a_device_describes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = driver(monkeypatch)
    assert (cuda.name, cuda.granularity, cuda.free_bytes()) == ("A device", 2 * MIB, 3)
    assert cuda.elapsed(1, 2) == 1_250_000
    assert cuda.clock_mhz() == 1980


def test_the_frequency_of_a_missing_device_is_unknown() -> None:
    assert make_clock("0000:ff:1f.7")() == 0


@pytest.mark.parametrize("name", sorted(LOST))
def test_errors_that_only_a_new_process_recovers_from_raise_device_lost(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = driver(monkeypatch, cuEventSynchronize=CUresult[name])
    with pytest.raises(DeviceLostError, match=rf"a CUDA device is lost \(cuEventSynchronize failed with {name}\)"):
        cuda.wait(1)


def test_other_errors_have_the_name_of_the_drivers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = driver(
        monkeypatch,
        cuMemCreate=CUresult["CUDA_ERROR_OUT_OF_MEMORY"],
        cuMemHostUnregister=CUresult["CUDA_ERROR_INVALID_VALUE"],
        cuMemRelease=RuntimeError("function cuMemRelease is not found"),
    )
    with pytest.raises(OutOfDeviceMemoryError, match="cuMemCreate failed with CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.create_page(MIB)
    with pytest.raises(CudaError, match="cuMemHostUnregister failed with CUDA_ERROR_INVALID_VALUE"):
        cuda.unpin(1)
    with pytest.raises(CudaError, match="NVIDIA's driver has no cuMemRelease"):
        cuda.release_page(1)


def test_the_frequency_is_queried_at_intervals_and_may_be_unknown() -> None:
    now = 0
    answers: list[Any] = [1980, 1200, ValueError("gone"), 900]

    def ask() -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    clock = Clock(ask, lambda: now)
    messages = []
    for moment in (0, ms(99), ms(100), ms(250), ms(400)):
        now = moment
        messages += [clock()]
    assert messages == [1980, 1980, 1200, 0, 900]
