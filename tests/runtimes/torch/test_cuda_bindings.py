"""The driver's answers, made up: what is wrong is said. That the calls are right, `make test-gpu` shows on a device."""

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from runtimes.torch import programs  # noqa: F401 - skips these tests where there is no PyTorch

from clockwork.errors import DeviceLostError, InvalidRequestError  # isort: skip
from clockwork.runtimes.torch.cuda import bindings
from clockwork.runtimes.torch.cuda.bindings import LOST, CudaDriver
from clockwork.runtimes.torch.cuda.clock import Clock, make_clock
from clockwork.runtimes.torch.cuda.driver import CudaError, OutOfDeviceMemoryError
from clockwork.units import MIB, ms

NAMES = ("CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_VALUE", *sorted(LOST))
CUresult = IntEnum("CUresult", [(name, i) for i, name in enumerate(NAMES)])  # type: ignore[misc]


class Answers:
    """Stands for the module: each function gives what it is told to, or what a sound device would give."""

    CUresult = CUresult
    CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED=102)
    CUmemAllocationType = SimpleNamespace(CU_MEM_ALLOCATION_TYPE_PINNED=1)
    CUmemLocationType = SimpleNamespace(CU_MEM_LOCATION_TYPE_DEVICE=1)
    CUmemAccess_flags = SimpleNamespace(CU_MEM_ACCESS_FLAGS_PROT_READWRITE=3)
    CUmemAllocationGranularity_flags = SimpleNamespace(CU_MEM_ALLOC_GRANULARITY_MINIMUM=0)

    def __init__(self, **told: Any) -> None:
        self.told = {
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
            **told,
        }

    def CUmemAllocationProp(self) -> Any:  # noqa: N802
        return SimpleNamespace(location=SimpleNamespace())

    def CUmemAccessDesc(self) -> Any:  # noqa: N802
        return SimpleNamespace(location=SimpleNamespace())

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> tuple[Any, ...]:
            found = self.told.get(name)
            if isinstance(found, Exception):
                raise found
            if isinstance(found, CUresult):
                return (found, None)
            values = found if isinstance(found, tuple) else () if found is None else (found,)
            return (CUresult["CUDA_SUCCESS"], *values)

        return function


def driver(monkeypatch: pytest.MonkeyPatch, device: int = 0, **told: Any) -> CudaDriver:
    monkeypatch.setattr(bindings, "_bindings", lambda: Answers(**told))
    monkeypatch.setattr(bindings, "make_clock", lambda bus_id: {"0000:01:00.0": lambda: 1980}[bus_id])
    return CudaDriver(device)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"cuInit": RuntimeError("libcuda.so.1: not found")},
            "there is no CUDA driver on this machine: install NVIDIA's",
        ),
        (
            {"cuInit": CUresult["CUDA_ERROR_NO_DEVICE"]},
            "CUDA cannot be used here: cuInit failed with CUDA_ERROR_NO_DEVICE",
        ),
        ({"cuDriverGetVersion": 11_080}, "the driver is for CUDA 11.8; at least 12.0 is needed: update it"),
        ({"cuDeviceGetCount": 0}, "there is no CUDA device 0: 0 can be seen here; ask for fewer --devices"),
        ({"cuDeviceGetAttribute": 0}, "CUDA device 0 has no virtual memory management"),
    ],
)
def test_a_machine_that_will_not_do_is_told_why(
    told: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        driver(monkeypatch, **told)


def test_a_device_describes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    its = driver(monkeypatch)
    assert (its.name, its.granularity, its.free_bytes()) == ("A device", 2 * MIB, 3)
    assert its.elapsed(1, 2) == 1_250_000
    assert its.clock_mhz() == 1980


def test_a_device_of_which_nothing_is_told_has_a_frequency_that_is_not_known() -> None:
    assert make_clock("0000:ff:1f.7")() == 0


@pytest.mark.parametrize("name", sorted(LOST))
def test_errors_after_which_nothing_works_are_of_a_kind_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = driver(monkeypatch, cuEventSynchronize=CUresult[name])
    with pytest.raises(DeviceLostError, match=rf"a CUDA device is lost \(cuEventSynchronize failed with {name}\)"):
        its.wait(1)


def test_other_errors_are_told_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    its = driver(
        monkeypatch,
        cuMemCreate=CUresult["CUDA_ERROR_OUT_OF_MEMORY"],
        cuMemHostUnregister=CUresult["CUDA_ERROR_INVALID_VALUE"],
        cuMemRelease=RuntimeError("function cuMemRelease is not found"),
    )
    with pytest.raises(OutOfDeviceMemoryError, match="cuMemCreate failed with CUDA_ERROR_OUT_OF_MEMORY"):
        its.create_page(MIB)
    with pytest.raises(CudaError, match="cuMemHostUnregister failed with CUDA_ERROR_INVALID_VALUE"):
        its.unpin(1)
    with pytest.raises(CudaError, match="NVIDIA's driver has no cuMemRelease"):
        its.release_page(1)


def test_the_frequency_is_asked_now_and_then_and_may_be_missing() -> None:
    now = 0
    answers: list[Any] = [1980, 1200, ValueError("gone"), 900]

    def ask() -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    clock = Clock(ask, lambda: now)
    told = []
    for moment in (0, ms(99), ms(100), ms(250), ms(400)):
        now = moment
        told += [clock()]
    assert told == [1980, 1980, 1200, 0, 900]
