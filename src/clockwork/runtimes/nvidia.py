"""Finds the NVIDIA GPUs of this machine. The driver reports their names, memory and modes.

Reading these values does not start work on a GPU. Only `check` raises errors. A value that cannot be read is None, for
example because a library is missing, is too old or denies access. If no GPU is found, `NvidiaGpus.missing` contains the
reason. The list contains the GPUs that this process can see (CUDA_VISIBLE_DEVICES), in CUDA's order. Modes and clocks
are read from NVML, which identifies a device by its UUID. This module has not run on a real device yet; tests replace
NVIDIA's bindings with fake modules.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.units import Bytes

HOW_TO_INSTALL: Final = "pip install 'cuda-bindings>=13,<14'"
NO_BINDINGS: Final = f"the package cuda-bindings is not installed: {HOW_TO_INSTALL}"
NO_DRIVER: Final = "there is no CUDA driver on this machine"

MAX_NAME_BYTES: Final = 256
"""Size in bytes of the buffer for a device's name."""

COMPUTE_MODES: Final = ("default", "exclusive thread", "prohibited", "exclusive process")
"""Names of compute modes, by number (``CUcomputemode``)."""

_FAILURES: Final = (RuntimeError, AttributeError, TypeError, ValueError, OSError)
"""Exceptions that the bindings raise if a library is missing or an old driver lacks a function."""


class Gpu(Struct, frozen=True):
    """One GPU. The clocks are the frequencies of its multiprocessors, in MHz."""

    name: str
    memory: Bytes
    free: Bytes | None = None
    compute_mode: str | None = None
    persistence: bool | None = None
    clock: int | None = None
    highest_clock: int | None = None


class NvidiaGpus(Struct, frozen=True):
    """All GPUs, the driver's version and the CUDA version that the driver supports.

    If no GPU was found, ``missing`` contains the reason.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    missing: str = ""


def find_gpus() -> NvidiaGpus:
    """Find the GPUs of this machine."""
    try:
        from cuda.bindings import driver, nvml
    except ImportError:
        return NvidiaGpus(missing=NO_BINDINGS)
    return find_gpus_with(driver, nvml)


def find_gpus_with(driver: Any, nvml: Any) -> NvidiaGpus:
    """Find GPUs with the modules ``driver`` and ``nvml`` of ``cuda.bindings``."""
    try:
        _call(driver.cuInit, 0)
        version = int(_call(driver.cuDriverGetVersion))
        count = int(_call(driver.cuDeviceGetCount))
    except _DriverError as error:
        return NvidiaGpus(missing=f"CUDA cannot be used here: {error}")
    except _FAILURES:  # a library is missing
        return NvidiaGpus(missing=NO_DRIVER)
    library = _Nvml(nvml)
    try:
        gpus = tuple(_gpus(driver, library, count))
        driver_version = library.query("system_get_driver_version")
    except _DriverError as error:
        return NvidiaGpus(missing=f"CUDA cannot be used here: {error}")
    finally:
        library.query("shutdown")
    missing = "" if gpus else "CUDA shows no device to this process: check CUDA_VISIBLE_DEVICES"
    return NvidiaGpus(gpus, driver_version, f"{version // 1000}.{version % 1000 // 10}", missing)


def check(found: NvidiaGpus, devices: int) -> tuple[Gpu, ...]:
    """Return the first ``devices`` GPUs.

    Raises:
        InvalidRequestError: there are too few GPUs, or they are of different kinds.
    """
    if found.missing:
        raise InvalidRequestError(f"{found.missing}; or use --device cpu")
    if len(found.gpus) < devices:
        raise InvalidRequestError(
            f"--devices is {devices}, but CUDA shows {len(found.gpus)} devices to this process: lower --devices, or "
            "check CUDA_VISIBLE_DEVICES"
        )
    chosen = found.gpus[:devices]
    names = sorted({gpu.name for gpu in chosen})
    if len(names) > 1:
        raise InvalidRequestError(
            f"the devices of a worker must be of one kind; found {', '.join(names)}: run a worker for each kind, with "
            "CUDA_VISIBLE_DEVICES"
        )
    return chosen


class _DriverError(Exception):
    """A function of the driver returned an error."""


class _Nvml:
    """Functions of NVML, NVIDIA's management library."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.query("init_v2")

    def query(self, function: str, *arguments: Any) -> Any:
        """Return the result of a function, or None if it fails."""
        try:
            return getattr(self.module, function)(*arguments)
        except (self.module.NvmlError, *_FAILURES):
            return None


def _gpus(driver: Any, nvml: _Nvml, count: int) -> Iterator[Gpu]:
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_MODE
    for number in range(count):
        device = _call(driver.cuDeviceGet, number)
        name = _call(driver.cuDeviceGetName, MAX_NAME_BYTES, device).split(b"\0", 1)[0].decode(errors="replace")
        mode = int(_call(driver.cuDeviceGetAttribute, attribute, device))
        gpu = Gpu(
            name,
            int(_call(driver.cuDeviceTotalMem, device)),
            compute_mode=COMPUTE_MODES[mode] if 0 <= mode < len(COMPUTE_MODES) else None,
        )
        handle = _handle(nvml, bytes(_call(driver.cuDeviceGetUuid, device).bytes))
        yield gpu if handle is None else _with_nvml(gpu, nvml, handle)


def _handle(nvml: _Nvml, uuid: bytes) -> Any:
    """Return NVML's handle of a device. Return None if NVML does not know the device or denies access."""
    for kind in ("GPU", "MIG"):
        handle = nvml.query("device_get_handle_by_uuid", f"{kind}-{UUID(bytes=uuid)}")
        if handle is not None:
            return handle
    return None


def _with_nvml(gpu: Gpu, nvml: _Nvml, handle: Any) -> Gpu:
    memory = nvml.query("device_get_memory_info_v2", handle)
    persistence = nvml.query("device_get_persistence_mode", handle)
    clocks = nvml.module.ClockType.SM
    return replace(
        gpu,
        free=None if memory is None else int(memory.free),
        persistence=None if persistence is None else bool(persistence),
        clock=nvml.query("device_get_clock_info", handle, clocks),
        highest_clock=nvml.query("device_get_max_clock_info", handle, clocks),
    )


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the driver and return its value."""
    result, *values = function(*arguments)
    if int(result) != 0:
        raise _DriverError(f"{function.__name__} failed with {result.name}")
    return values[0] if values else None
