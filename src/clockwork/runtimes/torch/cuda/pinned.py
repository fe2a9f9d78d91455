"""Host memory that the device reads by itself, within a budget.

Rules of the file: pinned memory is taken from everybody on the machine, so there is a limit. Weights beyond it are
copied all the same, by way of the driver's own small buffer, at a fraction of the speed; that is said once.
"""

import logging
from threading import Lock

from clockwork.runtimes.torch.cuda.driver import Address, CudaError, Driver
from clockwork.units import Bytes, show_bytes

log = logging.getLogger("clockwork.worker")


class PinnedBudget:
    """What may still be pinned. Any thread calls it."""

    def __init__(self, driver: Driver, limit: Bytes) -> None:
        self._driver = driver
        self._limit = limit
        self._lock = Lock()
        self._pinned: dict[Address, Bytes] = {}
        self._said = False

    @property
    def pinned_bytes(self) -> Bytes:
        """What is pinned."""
        return sum(self._pinned.values())

    def pin(self, address: Address, nbytes: Bytes) -> bool:
        """Pin a block of host memory; False if it stays as it is."""
        with self._lock:
            reason = ""
            if self.pinned_bytes + nbytes > self._limit:
                reason = f"more than {show_bytes(self._limit)} would be pinned"
            else:
                try:
                    self._driver.attach()
                    self._driver.pin(address, nbytes)
                except CudaError as error:
                    reason = str(error)
            if not reason:
                self._pinned[address] = nbytes
            elif not self._said:
                self._said = True
                log.warning("weights are copied from memory that is not pinned, which takes longer: %s", reason)
            return not reason

    def unpin(self, address: Address) -> None:
        """No longer; does nothing if it is not pinned."""
        with self._lock:
            if self._pinned.pop(address, None) is not None:
                self._driver.attach()
                self._driver.unpin(address)
