"""A weights cache: physical pages of a device, all taken at the start.

Rules of the file: what is taken is never given back before the end, so nobody else's allocation can be in the way of a
LoadWeights. Which pages a model gets does not matter; how many is what the controller counts.
"""

from threading import Lock

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.torch.cuda.driver import CudaError, Driver, Handle, OutOfDeviceMemoryError
from clockwork.units import Bytes, Pages, show_bytes


class PageCache:
    """The pages, and which are free. Any thread calls it."""

    def __init__(self, driver: Driver, pages: Pages, page_size: Bytes) -> None:
        """Takes all pages.

        Raises:
            InvalidRequestError: the device has no pages of this size, or not so many.
        """
        if page_size % driver.granularity:
            raise InvalidRequestError(
                f"pages of {show_bytes(page_size)} are not possible on {driver.name}: its memory comes in multiples of "
                f"{show_bytes(driver.granularity)}"
            )
        self.page_size = page_size
        self._driver = driver
        self._all: list[Handle] = []
        try:
            for _ in range(pages):
                self._all.append(driver.create_page(page_size))
        except OutOfDeviceMemoryError as error:
            taken = len(self._all)
            self.close()
            raise InvalidRequestError(
                f"{driver.name} has room for {taken} pages of {show_bytes(page_size)}; {pages} were asked for: give "
                f"less than {show_bytes(taken * page_size)} as --cache-size, and leave room for what inferences need"
            ) from error
        self._free = list(self._all)
        self._lock = Lock()

    @property
    def free(self) -> Pages:
        """Pages that no weights have."""
        return len(self._free)

    @property
    def nbytes(self) -> Bytes:
        """All pages together."""
        return len(self._all) * self.page_size

    def pages_of(self, nbytes: Bytes) -> Pages:
        """How many pages so much takes; at least one, as the controller counts."""
        return max(1, -(-nbytes // self.page_size))

    def take(self, count: Pages) -> list[Handle]:
        """Pages for somebody's weights.

        Raises:
            CudaError: there are not so many.
        """
        with self._lock:
            if count > len(self._free):
                raise CudaError(f"{count} pages are needed on {self._driver.name}; {len(self._free)} are free")
            kept = len(self._free) - count
            taken = self._free[kept:]
            del self._free[kept:]
            return taken

    def give(self, pages: list[Handle]) -> None:
        """They are free again; nothing of them is mapped."""
        with self._lock:
            self._free += pages

    def close(self) -> None:
        """Give all pages back to the device; all are free."""
        for page in self._all:
            self._driver.release_page(page)
        self._all = []
        self._free = []
