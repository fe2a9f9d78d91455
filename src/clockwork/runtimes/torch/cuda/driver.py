"""What is asked of CUDA's driver, for one device.

Rules of the file: each method is one call of the driver, called as its documentation demands ("Virtual Memory
Management", "Stream Management", "Event Management"): pages have a multiple of the granularity, a range is unmapped
before it is freed, access is set before the first copy. `tests/runtimes/torch/fake_driver.py` checks just that.
"""

from typing import Any, Protocol, TypeAlias

from clockwork.errors import ServerError
from clockwork.units import Bytes, Nanos

Address: TypeAlias = int
"""On the device, or of host memory."""

Handle: TypeAlias = Any
"""The driver's own: of a page, a stream, an event. PyTorch's streams are numbers, which the driver takes as well."""


class CudaError(ServerError):
    """Something failed on the device; the message has the driver's name for why, if it was the driver."""


class OutOfDeviceMemoryError(CudaError):
    """There is no memory left on the device."""


class Driver(Protocol):
    """One device. ``attach`` comes first on every thread.

    Every method may raise `CudaError`, and `clockwork.errors.DeviceLostError` if all that comes later would fail too.
    """

    @property
    def name(self) -> str:
        """``NVIDIA H100 80GB HBM3``."""
        ...

    @property
    def granularity(self) -> Bytes:
        """Sizes and addresses of pages are multiples of it."""
        ...

    def attach(self) -> None:
        """Let the calling thread use the device."""
        ...

    def free_bytes(self) -> Bytes:
        """Memory of the device that nobody has taken."""
        ...

    def check(self) -> None:
        """Wait for all that the device does. Raises `DeviceLostError` if it does nothing any more."""
        ...

    def clock_mhz(self) -> int:
        """The frequency at which the device computes now; 0 if it does not tell."""
        ...

    # ------------------------------------------------------------------------------------------------------- memory

    def reserve(self, nbytes: Bytes) -> Address:
        """Addresses that are nobody else's, with nothing behind them."""
        ...

    def free_range(self, address: Address, nbytes: Bytes) -> None:
        """Give reserved addresses back; nothing is mapped there."""
        ...

    def create_page(self, nbytes: Bytes) -> Handle:
        """Physical memory without an address. Raises `OutOfDeviceMemoryError` if there is none."""
        ...

    def release_page(self, page: Handle) -> None:
        """Give a page back, which is mapped nowhere."""
        ...

    def map(self, address: Address, nbytes: Bytes, page: Handle) -> None:
        """Put a page behind reserved addresses that have none."""
        ...

    def allow(self, address: Address, nbytes: Bytes) -> None:
        """Let the device read and write there; all of it is mapped."""
        ...

    def unmap(self, address: Address, nbytes: Bytes) -> None:
        """Take the page away that is mapped there; nothing that runs uses it."""
        ...

    def allocate(self, nbytes: Bytes) -> Address:
        """Memory with an address. Raises `OutOfDeviceMemoryError` if there is none."""
        ...

    def free(self, address: Address) -> None:
        """Give it back."""
        ...

    def pin(self, address: Address, nbytes: Bytes) -> None:
        """Keep host memory where it is, so that the device can read and write it by itself."""
        ...

    def unpin(self, address: Address) -> None:
        """No longer."""
        ...

    # ---------------------------------------------------------------------------------------------- streams, events

    def make_stream(self) -> Handle:
        """A queue of work that does not wait for the default one."""
        ...

    def make_event(self, sleeping: bool) -> Handle:
        """A moment in a stream, which is timed. Whoever waits for it sleeps, or watches."""
        ...

    def record(self, event: Handle, stream: Handle) -> None:
        """The moment when all that is in the stream will be done."""
        ...

    def follow(self, stream: Handle, event: Handle) -> None:
        """What comes into the stream from now on waits for the moment."""
        ...

    def wait(self, event: Handle) -> None:
        """Return when it is done."""
        ...

    def elapsed(self, first: Handle, second: Handle) -> Nanos:
        """Between two moments that are over, by the device's clock (which counts half microseconds)."""
        ...

    def copy_to_device(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy from host memory, which stays as it is until that is done."""
        ...

    def copy_on_device(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy within the device."""
        ...

    def copy_to_host(self, to: Address, source: Address, nbytes: Bytes, stream: Handle) -> None:
        """Queue a copy into host memory, which nobody reads until that is done."""
        ...
