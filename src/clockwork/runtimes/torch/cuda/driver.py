"""Defines the interface to the CUDA driver for one device.

Each method is one call of the driver. Callers follow the rules of the driver's documentation ("Virtual Memory
Management", "Stream Management", "Event Management"). The size of a page is a multiple of the granularity. A range is
unmapped before it is freed. A page is made accessible before the first copy. `tests/runtimes/torch/fake_driver.py`
checks these rules.
"""

from typing import Any, Protocol, TypeAlias

from clockwork.errors import ServerError
from clockwork.units import Bytes, Nanos

Address: TypeAlias = int
"""An address on the device or in host memory."""

Handle: TypeAlias = Any
"""The driver's handle of a page, a stream or an event. For streams of PyTorch, the handle is a number."""


class CudaError(ServerError):
    """Raised if an operation on the device fails.

    If the driver failed, the message contains the name of the driver's error.
    """


class OutOfDeviceMemoryError(CudaError):
    """Raised if the device has too little free memory."""


class Driver(Protocol):
    """One device. Each thread must call ``attach`` before any other method.

    Every method may raise `CudaError`. If every later call would fail as well, a method raises
    `clockwork.errors.DeviceLostError`.
    """

    @property
    def name(self) -> str:
        """Name of the device, such as ``NVIDIA H100 80GB HBM3``."""
        ...

    @property
    def granularity(self) -> Bytes:
        """The sizes and the addresses of pages are multiples of this number of bytes."""
        ...

    def attach(self) -> None:
        """Make the device usable for the calling thread."""
        ...

    def free_bytes(self) -> Bytes:
        """Return the free memory of the device."""
        ...

    def check(self) -> None:
        """Wait until the device has finished all work. Raise `DeviceLostError` if the device is lost."""
        ...

    def clock_mhz(self) -> int:
        """Return the current clock frequency in MHz, or 0 if it is unknown."""
        ...

    # ------------------------------------------------------------------------------------------------------- memory

    def reserve(self, nbytes: Bytes) -> Address:
        """Reserve a range of addresses without memory."""
        ...

    def free_range(self, address: Address, nbytes: Bytes) -> None:
        """Free reserved addresses. The range must have no mapped pages."""
        ...

    def create_page(self, nbytes: Bytes) -> Handle:
        """Allocate physical memory without an address. Raise `OutOfDeviceMemoryError` if there is too little memory."""
        ...

    def release_page(self, page: Handle) -> None:
        """Free a page that is not mapped."""
        ...

    def map(self, address: Address, nbytes: Bytes, page: Handle) -> None:
        """Map a page to reserved addresses. No page may be mapped to these addresses yet."""
        ...

    def allow(self, address: Address, nbytes: Bytes) -> None:
        """Let the device read and write the range. Pages must be mapped to the whole range."""
        ...

    def unmap(self, address: Address, nbytes: Bytes) -> None:
        """Unmap the page at this address. No running work may use the page."""
        ...

    def allocate(self, nbytes: Bytes) -> Address:
        """Allocate memory with an address. Raise `OutOfDeviceMemoryError` if there is too little memory."""
        ...

    def free(self, address: Address) -> None:
        """Free memory from `allocate`."""
        ...

    def pin(self, address: Address, nbytes: Bytes) -> None:
        """Pin host memory, so that the device can read and write it directly."""
        ...

    def unpin(self, address: Address) -> None:
        """Unpin host memory."""
        ...

    # ---------------------------------------------------------------------------------------------- streams, events

    def make_stream(self) -> Handle:
        """Create a stream that does not wait for the default stream."""
        ...

    def make_event(self, sleeping: bool) -> Handle:
        """Create an event that records its time.

        If ``sleeping``, a thread that waits for the event sleeps instead of polling.
        """
        ...

    def record(self, event: Handle, stream: Handle) -> None:
        """Let the event happen when all work that is now in the stream has finished."""
        ...

    def follow(self, stream: Handle, event: Handle) -> None:
        """Make later work in the stream wait for the event."""
        ...

    def wait(self, event: Handle) -> None:
        """Wait for the event."""
        ...

    def elapsed(self, first: Handle, second: Handle) -> Nanos:
        """Return the time between two events that have happened, on the device's clock.

        The resolution is 0.5 microseconds.
        """
        ...

    def copy_to_device(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy from host memory. This memory must not change until the copy is done."""
        ...

    def copy_on_device(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy within the device."""
        ...

    def copy_to_host(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy to host memory. Nothing may read this memory until the copy is done."""
        ...
