"""NVIDIA's devices as their driver tells of them, without using one: names, memory, modes.

Rules of the file: nothing here raises but `check`. What is not told, because a library is missing, is too old or does
not permit it, is None; why there is no device at all is said in words. Devices are those that CUDA shows this process,
in its order (CUDA_VISIBLE_DEVICES); modes and clocks come from NVML, which finds a device by its UUID. Not yet run on
a real device: tests put other modules in the place of NVIDIA's bindings.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.units import Bytes

HOW_TO_INSTALL: Final = "pip install 'clockwork-serve[cuda]'"
NO_BINDINGS: Final = f"the package cuda-bindings is not installed: {HOW_TO_INSTALL}"
NO_DRIVER: Final = "there is no CUDA driver on this machine"

NAME_CHARS_MAX: Final = 256

COMPUTE_MODES: Final = ("default", "exclusive thread", "prohibited", "exclusive process")
"""By number (``CUcomputemode``)."""

_FAILURES: Final = (RuntimeError, AttributeError, TypeError, ValueError, OSError)
"""What the bindings raise: their own errors, of libraries that are missing, of functions that an old driver lacks."""


class Gpu(Struct, frozen=True):
    """One device; clocks in MHz, of its multiprocessors."""

    name: str
    memory: Bytes
    free: Bytes | None = None
    compute_mode: str | None = None
    persistence: bool | None = None
    clock: int | None = None
    highest_clock: int | None = None


class Found(Struct, frozen=True):
    """All devices, or in ``missing`` why there is none; the versions of the driver, and of CUDA that it knows."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    missing: str = ""


def look() -> Found:
    """What is on this machine."""
    try:
        from cuda.bindings import driver, nvml
    except ImportError:
        return Found(missing=NO_BINDINGS)
    return look_by(driver, nvml)


def look_by(driver: Any, nvml: Any) -> Found:
    """What the two modules of ``cuda.bindings`` tell."""
    try:
        _call(driver.cuInit, 0)
        version = int(_call(driver.cuDriverGetVersion))
        count = int(_call(driver.cuDeviceGetCount))
    except _Refused as error:
        return Found(missing=f"CUDA cannot be used here: {error}")
    except _FAILURES:  # there is no such library
        return Found(missing=NO_DRIVER)
    library = _Nvml(nvml)
    try:
        gpus = tuple(_gpus(driver, library, count))
        its = library.told("system_get_driver_version")
    except _Refused as error:
        return Found(missing=f"CUDA cannot be used here: {error}")
    finally:
        library.told("shutdown")
    missing = "" if gpus else "CUDA shows no device to this process: see CUDA_VISIBLE_DEVICES"
    return Found(gpus, its, f"{version // 1000}.{version % 1000 // 10}", missing)


def check(found: Found, devices: int) -> tuple[Gpu, ...]:
    """The first ``devices`` devices.

    Raises:
        InvalidRequestError: there are not so many, or they are of several kinds.
    """
    if found.missing:
        raise InvalidRequestError(f"{found.missing}; --device cpu needs none")
    if len(found.gpus) < devices:
        raise InvalidRequestError(
            f"{devices} CUDA devices are needed, and {len(found.gpus)} can be seen here: ask for fewer "
            "--devices, or see CUDA_VISIBLE_DEVICES"
        )
    chosen = found.gpus[:devices]
    names = sorted({gpu.name for gpu in chosen})
    if len(names) > 1:
        raise InvalidRequestError(
            f"the devices of one worker are of one kind; found {', '.join(names)}: run a worker for each kind, with "
            "CUDA_VISIBLE_DEVICES"
        )
    return chosen


class _Refused(Exception):  # noqa: N818 - it ends here
    """The driver answered with an error."""


class _Nvml:
    """NVML's functions; what they cannot tell is None."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.told("init_v2")

    def told(self, function: str, *arguments: Any) -> Any:
        """What a function gives; None if it fails."""
        try:
            return getattr(self.module, function)(*arguments)
        except (self.module.NvmlError, *_FAILURES):
            return None


def _gpus(driver: Any, nvml: _Nvml, count: int) -> Iterator[Gpu]:
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_MODE
    for number in range(count):
        device = _call(driver.cuDeviceGet, number)
        name = _call(driver.cuDeviceGetName, NAME_CHARS_MAX, device).split(b"\0", 1)[0].decode(errors="replace")
        mode = int(_call(driver.cuDeviceGetAttribute, attribute, device))
        gpu = Gpu(
            name,
            int(_call(driver.cuDeviceTotalMem, device)),
            compute_mode=COMPUTE_MODES[mode] if 0 <= mode < len(COMPUTE_MODES) else None,
        )
        handle = _handle(nvml, bytes(_call(driver.cuDeviceGetUuid, device).bytes))
        yield gpu if handle is None else _with_nvml(gpu, nvml, handle)


def _handle(nvml: _Nvml, uuid: bytes) -> Any:
    """NVML's handle of a device; None if it does not know it, or may not tell."""
    for kind in ("GPU", "MIG"):
        handle = nvml.told("device_get_handle_by_uuid", f"{kind}-{UUID(bytes=uuid)}")
        if handle is not None:
            return handle
    return None


def _with_nvml(gpu: Gpu, nvml: _Nvml, handle: Any) -> Gpu:
    memory = nvml.told("device_get_memory_info_v2", handle)
    persistence = nvml.told("device_get_persistence_mode", handle)
    clocks = nvml.module.ClockType.SM
    return replace(
        gpu,
        free=None if memory is None else int(memory.free),
        persistence=None if persistence is None else bool(persistence),
        clock=nvml.told("device_get_clock_info", handle, clocks),
        highest_clock=nvml.told("device_get_max_clock_info", handle, clocks),
    )


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """The one value that a function of the driver gives."""
    result, *values = function(*arguments)
    if int(result) != 0:
        raise _Refused(f"{function.__name__} failed with {result.name}")
    return values[0] if values else None
