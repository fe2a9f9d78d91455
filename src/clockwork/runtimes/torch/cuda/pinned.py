"""Manages pinned host memory, which a device can read directly. The amount is limited.

Other programs on the machine cannot use pinned memory, so there is a limit. Weights beyond the limit are not pinned.
The driver copies weights that are not pinned through a small buffer, which is several times slower. The log reports
this once.
"""

import logging
from threading import Lock

from clockwork.runtimes.torch.cuda.driver import Address, CudaError, Driver
from clockwork.units import Bytes, show_bytes

log = logging.getLogger("clockwork.worker")


class PinnedBudget:
    """The pinned memory and its limit. Any thread may call any method."""

    def __init__(self, driver: Driver, limit: Bytes) -> None:
        self._driver = driver
        self._limit = limit
        self._lock = Lock()
        self._pinned: dict[Address, Bytes] = {}
        self._warned = False

    @property
    def pinned_bytes(self) -> Bytes:
        """Number of bytes that are pinned."""
        return sum(self._pinned.values())

    def pin(self, address: Address, nbytes: Bytes) -> bool:
        """Pin a block of host memory. Return False if that is not possible."""
        with self._lock:
            reason = ""
            if self.pinned_bytes + nbytes > self._limit:
                reason = f"the limit of {show_bytes(self._limit)} is reached"
            else:
                try:
                    self._driver.attach()
                    self._driver.pin(address, nbytes)
                except CudaError as error:
                    reason = str(error)
            if not reason:
                self._pinned[address] = nbytes
            elif not self._warned:
                self._warned = True
                log.warning("weights are copied from memory that is not pinned, which is slower: %s", reason)
            return not reason

    def unpin(self, address: Address) -> None:
        """Unpin a block. If the block is not pinned, do nothing."""
        with self._lock:
            if self._pinned.pop(address, None) is not None:
                self._driver.attach()
                self._driver.unpin(address)
