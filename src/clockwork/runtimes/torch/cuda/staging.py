"""Manages the memory for inputs and outputs, on the device and in the host.

All of this memory is allocated at the start.

Theory of operation. A *slot* consists of pinned host memory and the same amount of device memory. The inputs of a batch
are written to the host memory of a slot. The inputs are copied to the slot's device memory while another batch is
executed. Outputs are copied from device memory to host memory. Graphs read and write fixed addresses. So all graphs of
a device share two *areas* of device memory, one for inputs and one for outputs. Just before a batch is executed, its
inputs are copied on the device from their slot to the input area.

The threads of a worker use at most `SLOTS` batches of inputs at a time, so they never wait for a slot. Up to `SLOTS`
batches of outputs can wait for the network thread.
"""

from queue import Empty, SimpleQueue
from typing import Any, Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.torch.cuda.driver import Address, CudaError, Driver, Handle, OutOfDeviceMemoryError
from clockwork.runtimes.torch.weights import ALIGNMENT, host_block
from clockwork.units import Bytes, show_bytes

SLOTS: Final = 4
"""Number of slots for batches of inputs.

The EXEC lane uses two slots: one for the batch that is being executed, and one for a batch that is being prepared or is
executed again request by request. The INPUT lane uses two slots: one for a prepared batch, and one for the batch that
replaces it.
"""

_PARTS: Final = 2 * SLOTS + 2

MAX_SLOT_WAIT: Final = 2.0
"""Longest wait for a slot, in seconds. The network thread, which sends outputs, may be busy for some time."""


class Slot(Struct, frozen=True, eq=False):
    """Memory for one batch of inputs or outputs, with CUDA events.

    The events mark the start and end of the batch's work, and the end of its copy.
    """

    host: Any  #: a tensor of bytes
    host_address: Address
    address: Address
    begin: Handle
    end: Handle
    copied: Handle


class Lease:
    """A slot in use. The slot becomes free when nothing refers to the lease any more."""

    def __init__(self, slot: Slot, back: "SimpleQueue[Slot]") -> None:
        self.slot = slot
        self._back = back

    def __del__(self) -> None:
        # this call must be reentrant, because a lease may be deleted at any moment, even during this call
        self._back.put(self.slot)


class Staging:
    """The slots and areas of one device."""

    def __init__(self, driver: Driver, nbytes: Bytes) -> None:
        """Allocate ``nbytes`` of device memory, and almost as much pinned host memory.

        Raises:
            InvalidRequestError: there is too little memory.
        """
        self.slot_bytes: Bytes = nbytes // _PARTS // ALIGNMENT * ALIGNMENT
        self.nbytes = nbytes
        self._driver = driver
        if not self.slot_bytes:
            raise InvalidRequestError(f"{nbytes} bytes for inputs and outputs are too few: use a larger --io-size")
        try:
            self._device = driver.allocate(self.slot_bytes * _PARTS)
        except OutOfDeviceMemoryError as error:
            raise InvalidRequestError(
                f"inputs and outputs need {show_bytes(nbytes)} of {driver.name}, which has "
                f"{show_bytes(driver.free_bytes())} free: use a smaller --io-size or --cache-size"
            ) from error
        self._host = host_block(self.slot_bytes * 2 * SLOTS)
        try:
            driver.pin(self._host.data_ptr(), self._host.nbytes)
        except CudaError as error:
            driver.free(self._device)
            raise InvalidRequestError(
                f"cannot pin {show_bytes(nbytes)} of host memory for inputs and outputs ({error}): use a smaller "
                "--io-size, or raise the limit of locked memory"
            ) from error
        self.input_area: Address = self._device + 2 * SLOTS * self.slot_bytes
        self.output_area: Address = self.input_area + self.slot_bytes
        self._inputs: SimpleQueue[Slot] = SimpleQueue()
        self._outputs: SimpleQueue[Slot] = SimpleQueue()
        for i in range(2 * SLOTS):
            (self._inputs if i < SLOTS else self._outputs).put(self._slot(i))

    def take_input(self) -> Lease:
        """Take a slot for inputs.

        Raises:
            ServerError: no slot became free within `MAX_SLOT_WAIT`.
        """
        return self._take(self._inputs, "inputs")

    def take_output(self) -> Lease:
        """Take a slot for outputs. This method raises the same errors as `take_input`."""
        return self._take(self._outputs, "outputs")

    def check_fits(self, nbytes: Bytes, what: str) -> None:
        """Check that ``nbytes`` fit into a slot.

        Raises:
            ServerError: the bytes do not fit.
        """
        if nbytes > self.slot_bytes:
            raise ServerError(
                f"{what} of the batch need {show_bytes(nbytes)}; the limit is {show_bytes(self.slot_bytes)}: use "
                f"--io-size {show_bytes(nbytes * _PARTS)}, or smaller batches"
            )

    def close(self) -> None:
        """Free the memory. No slot may be in use."""
        self._driver.unpin(self._host.data_ptr())
        self._driver.free(self._device)

    def _slot(self, i: int) -> Slot:
        offset, driver = i * self.slot_bytes, self._driver
        host = self._host[offset : offset + self.slot_bytes]
        events = [driver.make_event(sleeping=sleeping) for sleeping in (False, False, True)]
        return Slot(host, host.data_ptr(), self._device + offset, *events)

    def _take(self, slots: "SimpleQueue[Slot]", what: str) -> Lease:
        try:
            return Lease(slots.get(timeout=MAX_SLOT_WAIT), slots)
        except Empty:
            raise ServerError(f"no memory for {what} became free within {MAX_SLOT_WAIT:g} s") from None
