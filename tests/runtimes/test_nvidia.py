"""GPUs found by NVIDIA's driver; fake modules replace its bindings."""

from enum import IntEnum
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.nvidia import NO_DRIVER, Gpu, NvidiaGpus, check, find_gpus_with
from clockwork.units import GIB, MIB

UUIDS = [UUID(int=number + 1) for number in range(3)]


class Result(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100


class NvmlError(Exception):
    pass


class Driver:
    """Fake of ``cuda.bindings.driver``. ``failing``: name of a function that fails."""

    CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_COMPUTE_MODE=20)

    def __init__(self, names: list[str], failing: str = "", mode: int = 0) -> None:
        self.names = names
        self.failing = failing
        self.mode = mode

    def _gives(self, function: str, *values: Any) -> Any:
        return (Result.CUDA_ERROR_NO_DEVICE,) if function == self.failing else (Result.CUDA_SUCCESS, *values)

    def cuInit(self, flags: int) -> Any:  # noqa: N802 - NVIDIA's names
        assert flags == 0
        return self._gives("cuInit")

    def cuDriverGetVersion(self) -> Any:  # noqa: N802
        return self._gives("cuDriverGetVersion", 13020)

    def cuDeviceGetCount(self) -> Any:  # noqa: N802
        return self._gives("cuDeviceGetCount", len(self.names))

    def cuDeviceGet(self, number: int) -> Any:  # noqa: N802
        return self._gives("cuDeviceGet", f"device {number}")

    def _number(self, device: str) -> int:
        return int(device.removeprefix("device "))

    def cuDeviceGetName(self, chars: int, device: str) -> Any:  # noqa: N802
        return self._gives("cuDeviceGetName", self.names[self._number(device)].encode().ljust(chars, b"\0"))

    def cuDeviceGetAttribute(self, attribute: int, device: str) -> Any:  # noqa: N802
        assert attribute == 20
        return self._gives("cuDeviceGetAttribute", self.mode)

    def cuDeviceTotalMem(self, device: str) -> Any:  # noqa: N802
        return self._gives("cuDeviceTotalMem", 80 * GIB)

    def cuDeviceGetUuid(self, device: str) -> Any:  # noqa: N802
        return self._gives("cuDeviceGetUuid", SimpleNamespace(bytes=UUIDS[self._number(device)].bytes))


class Nvml:
    """Fake of ``cuda.bindings.nvml``. ``refusing``: names of functions that fail."""

    NvmlError = NvmlError
    ClockType = SimpleNamespace(SM=1)

    def __init__(self, refusing: tuple[str, ...] = (), kind: str = "GPU") -> None:
        self.refusing = refusing
        self.kind = kind
        self.open = 0

    def __getattribute__(self, name: str) -> Any:
        if name in object.__getattribute__(self, "refusing"):
            raise NvmlError(name)
        return object.__getattribute__(self, name)

    def init_v2(self) -> None:
        self.open += 1

    def shutdown(self) -> None:
        self.open -= 1

    def system_get_driver_version(self) -> str:
        return "580.95.05"

    def device_get_handle_by_uuid(self, uuid: str) -> int:
        if not uuid.startswith(self.kind):
            raise NvmlError("not found")
        return [f"{self.kind}-{known}" for known in UUIDS].index(uuid) + 1000

    def device_get_memory_info_v2(self, handle: int) -> Any:
        assert handle >= 1000
        return SimpleNamespace(free=70 * GIB)

    def device_get_persistence_mode(self, handle: int) -> int:
        return 1

    def device_get_clock_info(self, handle: int, kind: int) -> int:
        return 345

    def device_get_max_clock_info(self, handle: int, kind: int) -> int:
        return 1980


def test_all_values_of_a_gpu_are_read() -> None:
    nvml = Nvml()
    found = find_gpus_with(Driver(["NVIDIA H100 80GB HBM3"], mode=3), nvml)
    gpu = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, 70 * GIB, "exclusive process", True, 345, 1980)
    assert found == NvidiaGpus((gpu,), "580.95.05", "13.2")
    assert nvml.open == 0


def test_a_mig_device_is_found_by_its_uuid() -> None:
    assert find_gpus_with(Driver(["part"]), Nvml(kind="MIG")).gpus[0].free == 70 * GIB


@pytest.mark.parametrize(
    "refusing",
    [
        ("device_get_handle_by_uuid",),
        ("init_v2", "system_get_driver_version", "device_get_handle_by_uuid", "shutdown"),
        (
            "device_get_memory_info_v2",
            "device_get_persistence_mode",
            "device_get_clock_info",
            "device_get_max_clock_info",
        ),
    ],
)
def test_values_that_nvml_denies_are_reported_as_none(refusing: tuple[str, ...]) -> None:
    found = find_gpus_with(Driver(["a"]), Nvml(refusing))
    assert found.gpus == (Gpu("a", 80 * GIB, compute_mode="default"),)
    assert found.cuda == "13.2"
    assert not found.missing


def test_an_unknown_compute_mode_is_reported_as_none() -> None:
    assert find_gpus_with(Driver(["a"], mode=17), Nvml()).gpus[0].compute_mode is None


@pytest.mark.parametrize("failing", ["cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGetName"])
def test_a_driver_error_is_reported(failing: str) -> None:
    nvml = Nvml()
    found = find_gpus_with(Driver(["a"], failing), nvml)
    assert found == NvidiaGpus(missing=f"CUDA cannot be used here: {failing} failed with CUDA_ERROR_NO_DEVICE")
    assert nvml.open == 0


def test_a_missing_driver_is_reported() -> None:
    class Nothing:
        def cuInit(self, flags: int) -> Any:  # noqa: N802
            raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search')

    assert find_gpus_with(Nothing(), Nvml()) == NvidiaGpus(missing=NO_DRIVER)


def test_a_process_that_sees_no_device_is_referred_to_cuda_visible_devices() -> None:
    assert "CUDA_VISIBLE_DEVICES" in find_gpus_with(Driver([]), Nvml()).missing


def test_a_worker_gets_the_requested_number_of_devices_of_one_kind() -> None:
    found = find_gpus_with(Driver(["a", "a", "b"]), Nvml())
    assert [gpu.name for gpu in check(found, 2)] == ["a", "a"]
    with pytest.raises(InvalidRequestError, match="--devices is 4, but CUDA shows 3 devices"):
        check(found, 4)
    with pytest.raises(InvalidRequestError, match="of one kind; found a, b: run a worker for each"):
        check(found, 3)
    with pytest.raises(InvalidRequestError, match="there is no CUDA driver on this machine; or use --device cpu"):
        check(NvidiaGpus(missing=NO_DRIVER), 1)


def test_the_cache_gets_the_memory_left_by_the_workspace() -> None:
    from clockwork.runtimes.onnx.cuda import cache_bytes_of

    page = 16 * MIB
    gpus = [Gpu("a", 80 * GIB, 50 * GIB), Gpu("a", 80 * GIB)]
    assert cache_bytes_of(gpus, 2 * GIB, page) == 38 * GIB
    assert cache_bytes_of([Gpu("a", 10 * GIB + 5 * page)], 2 * GIB, page) == 6 * GIB + 4 * page
    with pytest.raises(InvalidRequestError, match=r"a has 1.0 GiB free; 2.0 GiB of workspace leave no room"):
        cache_bytes_of([Gpu("a", 80 * GIB, GIB)], 2 * GIB, page)
