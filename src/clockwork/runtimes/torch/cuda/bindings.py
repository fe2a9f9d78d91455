"""The only module that calls the CUDA driver. The module uses NVIDIA's bindings (the package ``cuda-bindings``).

Each method is one call of the driver, and checks the result. This code has not run on a real device yet.
"""

from typing import Any, Final

from clockwork.errors import DeviceLostError, InvalidRequestError
from clockwork.runtimes.nvidia import NO_DRIVER
from clockwork.runtimes.torch.cuda.clock import make_clock
from clockwork.runtimes.torch.cuda.driver import Address, CudaError, Handle, OutOfDeviceMemoryError
from clockwork.runtimes.torch.failures import describe
from clockwork.units import MILLISECOND, Bytes, Nanos

MIN_VERSION: Final = 12_000
"""Oldest supported version, CUDA 12.0, in the format of cuDriverGetVersion."""

LOST: Final = frozenset(
    f"CUDA_ERROR_{error}"
    for error in (
        "ASSERT",
        "CONTAINED",
        "CONTEXT_IS_DESTROYED",
        "DEINITIALIZED",
        "DEVICE_UNAVAILABLE",
        "ECC_UNCORRECTABLE",
        "EXTERNAL_DEVICE",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "MISALIGNED_ADDRESS",
        "NVLINK_UNCORRECTABLE",
        "TENSOR_MEMORY_LEAK",
    )
)
"""Errors that mean that the device is lost.

After some of these errors, "the process must be terminated and relaunched" (CUDA Driver API, CUresult).
"""

_MAX_NAME_CHARS: Final = 256
_MAX_BUS_ID_CHARS: Final = 32


class CudaDriver:
    """The CUDA driver for one device; see `clockwork.runtimes.torch.cuda.driver.Driver`."""

    def __init__(self, device: int) -> None:
        """Open the device with number ``device`` among the devices that this process can see.

        Raises:
            InvalidRequestError: the bindings, the driver or the device are missing, or the driver is too old.
        """
        self._cuda = _bindings()
        self._start()
        count = self._call("cuDeviceGetCount")
        if device >= count:
            raise InvalidRequestError(
                f"CUDA device {device} does not exist: {count} are visible; use fewer --devices, or change "
                "CUDA_VISIBLE_DEVICES"
            )
        self._device = self._call("cuDeviceGet", device)
        if not self._attribute("VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"):
            raise InvalidRequestError(
                f"CUDA device {device} does not support virtual memory management, which Clockwork needs"
            )
        # PyTorch uses the same context of the device.
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._properties = self._page_properties(device)
        self._access = self._access_description(device)
        self._name = _text(self._call("cuDeviceGetName", _MAX_NAME_CHARS, self._device))
        self._clock = make_clock(_text(self._call("cuDeviceGetPCIBusId", _MAX_BUS_ID_CHARS, self._device)))
        minimum = self._cuda.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self._granularity = int(self._call("cuMemGetAllocationGranularity", self._properties, minimum))

    @property
    def name(self) -> str:
        """Name of the device, such as ``NVIDIA H100 80GB HBM3``."""
        return self._name

    @property
    def granularity(self) -> Bytes:
        """The sizes and the addresses of pages are multiples of this number of bytes."""
        return self._granularity

    def attach(self) -> None:
        """Make the device usable for the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> Bytes:
        """Return the free memory of the device."""
        free, _ = self._call("cuMemGetInfo")
        return int(free)

    def check(self) -> None:
        """Wait until the device has finished all work. Raise `DeviceLostError` if the device is lost."""
        self._call("cuCtxSynchronize")

    def clock_mhz(self) -> int:
        """Return the current clock frequency in MHz, or 0 if it is unknown."""
        return self._clock()

    def reserve(self, nbytes: Bytes) -> Address:
        """Reserve a range of addresses without memory."""
        return int(self._call("cuMemAddressReserve", nbytes, 0, self._cuda.CUdeviceptr(0), 0))

    def free_range(self, address: Address, nbytes: Bytes) -> None:
        """Free reserved addresses. The range must have no mapped pages."""
        self._call("cuMemAddressFree", self._cuda.CUdeviceptr(address), nbytes)

    def create_page(self, nbytes: Bytes) -> Handle:
        """Allocate physical memory without an address. Raise `OutOfDeviceMemoryError` if there is too little memory."""
        return self._call("cuMemCreate", nbytes, self._properties, 0)

    def release_page(self, page: Handle) -> None:
        """Free a page that is not mapped."""
        self._call("cuMemRelease", page)

    def map(self, address: Address, nbytes: Bytes, page: Handle) -> None:
        """Map a page to reserved addresses. No page may be mapped to these addresses yet."""
        self._call("cuMemMap", self._cuda.CUdeviceptr(address), nbytes, 0, page, 0)

    def allow(self, address: Address, nbytes: Bytes) -> None:
        """Let the device read and write the range. Pages must be mapped to the whole range."""
        self._call("cuMemSetAccess", self._cuda.CUdeviceptr(address), nbytes, [self._access], 1)

    def unmap(self, address: Address, nbytes: Bytes) -> None:
        """Unmap the page at this address. No running work may use the page."""
        self._call("cuMemUnmap", self._cuda.CUdeviceptr(address), nbytes)

    def allocate(self, nbytes: Bytes) -> Address:
        """Allocate memory with an address. Raise `OutOfDeviceMemoryError` if there is too little memory."""
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, address: Address) -> None:
        """Free memory from `allocate`."""
        self._call("cuMemFree", self._cuda.CUdeviceptr(address))

    def pin(self, address: Address, nbytes: Bytes) -> None:
        """Pin host memory, so that the device can read and write it directly."""
        self._call("cuMemHostRegister", address, nbytes, self._cuda.CU_MEMHOSTREGISTER_PORTABLE)

    def unpin(self, address: Address) -> None:
        """Unpin host memory."""
        self._call("cuMemHostUnregister", address)

    def make_stream(self) -> Handle:
        """Create a stream that does not wait for the default stream."""
        return self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value)

    def make_event(self, sleeping: bool) -> Handle:
        """Create an event that records its time.

        If ``sleeping``, a thread that waits for the event sleeps instead of polling.
        """
        flags = self._cuda.CUevent_flags
        return self._call("cuEventCreate", (flags.CU_EVENT_BLOCKING_SYNC if sleeping else flags.CU_EVENT_DEFAULT).value)

    def record(self, event: Handle, stream: Handle) -> None:
        """Let the event happen when all work that is now in the stream has finished."""
        self._call("cuEventRecord", event, stream)

    def follow(self, stream: Handle, event: Handle) -> None:
        """Make later work in the stream wait for the event."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def wait(self, event: Handle) -> None:
        """Wait for the event."""
        self._call("cuEventSynchronize", event)

    def elapsed(self, first: Handle, second: Handle) -> Nanos:
        """Return the time between two events that have happened, on the device's clock.

        The resolution is 0.5 microseconds.
        """
        milliseconds: float = self._call("cuEventElapsedTime", first, second)
        return round(milliseconds * MILLISECOND)

    def copy_to_device(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy from host memory. This memory must not change until the copy is done."""
        self._call("cuMemcpyHtoDAsync", self._cuda.CUdeviceptr(to), source, nbytes, stream)

    def copy_on_device(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy within the device."""
        self._call("cuMemcpyDtoDAsync", self._cuda.CUdeviceptr(to), self._cuda.CUdeviceptr(source), nbytes, stream)

    def copy_to_host(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy to host memory. Nothing may read this memory until the copy is done."""
        self._call("cuMemcpyDtoHAsync", to, self._cuda.CUdeviceptr(source), nbytes, stream)

    def _start(self) -> None:
        try:
            self._call("cuInit", 0)
            version = self._call("cuDriverGetVersion")
        except CudaError as error:
            if isinstance(error.__cause__, RuntimeError):
                raise InvalidRequestError(f"{NO_DRIVER}: install NVIDIA's driver, or use --device cpu") from error
            raise InvalidRequestError(f"cannot use CUDA: {error}; --device cpu works without CUDA") from error
        if version < MIN_VERSION:
            raise InvalidRequestError(
                f"driver supports CUDA {_version(version)}; the minimum is {_version(MIN_VERSION)}: update the driver"
            )

    def _page_properties(self, device: int) -> Any:
        properties = self._cuda.CUmemAllocationProp()
        properties.type = self._cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = self._cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = device
        return properties

    def _access_description(self, device: int) -> Any:
        access = self._cuda.CUmemAccessDesc()
        access.location.type = self._cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = device
        access.flags = self._cuda.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        return access

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the driver. Return its value, or a tuple of its values."""
        try:
            result, *values = getattr(self._cuda, function)(*arguments)
        except RuntimeError as error:  # the bindings raise this error if the library or the function is missing
            raise CudaError(f"NVIDIA's driver has no {function} ({describe(error)}): install or update it") from error
        if result != self._cuda.CUresult.CUDA_SUCCESS:
            if result.name in LOST:
                raise DeviceLostError(
                    f"a CUDA device is lost ({function} failed with {result.name}): the worker exits, because every "
                    "later call would fail as well"
                )
            kind = OutOfDeviceMemoryError if result.name == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
            raise kind(f"{function} failed with {result.name}")
        return values[0] if len(values) == 1 else tuple(values)


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise InvalidRequestError(
            "CUDA devices need the package cuda-bindings: pip install 'cuda-bindings>=13,<14'"
        ) from error
    return driver


def _text(found: bytes) -> str:
    return found.split(b"\0", 1)[0].decode()


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
