"""Memory for inputs and outputs, on the device and in the host, all taken at the start.

Theory of operation. A *slot* is as much memory in the host, pinned, as on the device. A batch's inputs are put into the
host's half of a slot and copied to the device's while another batch is executed; outputs go the other way. Graphs read
and write at addresses that never change, so all graphs of a device share two *areas*, one for inputs and one for
outputs: a copy on the device brings the inputs from their slot to the area when their turn has come.

`SLOTS` is how many batches of inputs a worker's threads can hold at a time, so nobody waits for one; for outputs it is
how many may wait for the network's thread.
"""

from queue import Empty, SimpleQueue
from typing import Any, Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.torch.cuda.driver import Address, CudaError, Driver, Handle, OutOfDeviceMemoryError
from clockwork.runtimes.torch.weights import ALIGNMENT, host_block
from clockwork.units import Bytes, show_bytes

SLOTS: Final = 4
"""EXEC: the batch that it executes, and one prepared or executed again request by request; INPUT: one prepared, and the
one that takes its place."""

_PARTS: Final = 2 * SLOTS + 2

TAKE_MAX: Final = 2.0
"""Seconds to wait for a slot: for as long the network's thread may not have come by."""


class Slot(Struct, frozen=True, eq=False):
    """Memory for one batch of inputs or of outputs, and its events: when work on it began, ended, and was copied."""

    host: Any  #: a tensor of bytes
    host_address: Address
    address: Address
    begin: Handle
    end: Handle
    copied: Handle


class Lease:
    """A slot that is somebody's; it goes back when nobody refers to the lease any more."""

    def __init__(self, slot: Slot, back: "SimpleQueue[Slot]") -> None:
        self.slot = slot
        self._back = back

    def __del__(self) -> None:
        self._back.put(self.slot)  # which may be called at any moment, even within itself


class Staging:
    """All slots and areas of one device."""

    def __init__(self, driver: Driver, nbytes: Bytes) -> None:
        """Takes ``nbytes`` of the device, and almost as much of the host.

        Raises:
            InvalidRequestError: there is not so much.
        """
        self.slot_bytes: Bytes = nbytes // _PARTS // ALIGNMENT * ALIGNMENT
        self.nbytes = nbytes
        self._driver = driver
        if not self.slot_bytes:
            raise InvalidRequestError(f"{nbytes} bytes for inputs and outputs are too few: give more as --io-size")
        try:
            self._device = driver.allocate(self.slot_bytes * _PARTS)
        except OutOfDeviceMemoryError as error:
            raise InvalidRequestError(
                f"{driver.name} has no {show_bytes(nbytes)} for inputs and outputs ({show_bytes(driver.free_bytes())} "
                "are free): give less as --io-size or --cache-size"
            ) from error
        self._host = host_block(self.slot_bytes * 2 * SLOTS)
        try:
            driver.pin(self._host.data_ptr(), self._host.nbytes)
        except CudaError as error:
            driver.free(self._device)
            raise InvalidRequestError(
                f"{show_bytes(nbytes)} of host memory for inputs and outputs cannot be pinned ({error}): give less as "
                "--io-size, or raise the limit on locked memory"
            ) from error
        self.input_area: Address = self._device + 2 * SLOTS * self.slot_bytes
        self.output_area: Address = self.input_area + self.slot_bytes
        self._inputs: SimpleQueue[Slot] = SimpleQueue()
        self._outputs: SimpleQueue[Slot] = SimpleQueue()
        for i in range(2 * SLOTS):
            (self._inputs if i < SLOTS else self._outputs).put(self._slot(i))

    def take_input(self) -> Lease:
        """A slot for inputs.

        Raises:
            ServerError: none has become free in `TAKE_MAX`.
        """
        return self._take(self._inputs, "inputs")

    def take_output(self) -> Lease:
        """A slot for outputs; raises as `take_input`."""
        return self._take(self._outputs, "outputs")

    def check_fits(self, nbytes: Bytes, what: str) -> None:
        """Whether so much fits into a slot.

        Raises:
            ServerError: it does not.
        """
        if nbytes > self.slot_bytes:
            raise ServerError(
                f"the {what} of the batch take {show_bytes(nbytes)}; of {show_bytes(self.nbytes)} for inputs and "
                f"outputs a batch has {show_bytes(self.slot_bytes)}: give --io-size {show_bytes(nbytes * _PARTS)}, or "
                "serve smaller batches"
            )

    def close(self) -> None:
        """Give the memory back; nothing is in a slot any more."""
        self._driver.unpin(self._host.data_ptr())
        self._driver.free(self._device)

    def _slot(self, i: int) -> Slot:
        offset, driver = i * self.slot_bytes, self._driver
        host = self._host[offset : offset + self.slot_bytes]
        events = [driver.make_event(sleeping=sleeping) for sleeping in (False, False, True)]
        return Slot(host, host.data_ptr(), self._device + offset, *events)

    def _take(self, slots: "SimpleQueue[Slot]", what: str) -> Lease:
        try:
            return Lease(slots.get(timeout=TAKE_MAX), slots)
        except Empty:
            raise ServerError(f"all memory for {what} has been in use for {TAKE_MAX:g} s") from None
