"""Implements a weights cache.

The cache consists of physical pages of a device, which are all allocated at the start.

The cache keeps its pages until it is closed. So no allocation by other code can make a LoadWeights fail. All pages are
interchangeable, so the controller only counts the free pages.
"""

from threading import Lock

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.torch.cuda.driver import CudaError, Driver, Handle, OutOfDeviceMemoryError
from clockwork.units import Bytes, Pages, show_bytes


class PageCache:
    """All pages, and the list of free pages. Any thread may call any method."""

    def __init__(self, driver: Driver, pages: Pages, page_size: Bytes) -> None:
        """Allocate all pages.

        Raises:
            InvalidRequestError: the device does not support the page size, or has too little memory.
        """
        if page_size % driver.granularity:
            raise InvalidRequestError(
                f"page size {show_bytes(page_size)} is not possible on {driver.name}: use a multiple of "
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
                f"weights cache has {pages} pages of {show_bytes(page_size)}; {driver.name} has memory for {taken}: "
                "use "
                f"a --cache-size below {show_bytes(taken * page_size)}, to leave memory for inferences"
            ) from error
        self._free = list(self._all)
        self._lock = Lock()

    @property
    def free(self) -> Pages:
        """Number of free pages."""
        return len(self._free)

    @property
    def nbytes(self) -> Bytes:
        """Total size of the pages."""
        return len(self._all) * self.page_size

    def pages_of(self, nbytes: Bytes) -> Pages:
        """Return the number of pages for ``nbytes``.

        The number is at least one. The controller computes the same number.
        """
        return max(1, -(-nbytes // self.page_size))

    def take(self, count: Pages) -> list[Handle]:
        """Take free pages for weights.

        Raises:
            CudaError: too few pages are free.
        """
        with self._lock:
            if count > len(self._free):
                raise CudaError(f"weights need {count} pages of {self._driver.name}; {len(self._free)} are free")
            kept = len(self._free) - count
            taken = self._free[kept:]
            del self._free[kept:]
            return taken

    def put_back(self, pages: list[Handle]) -> None:
        """Mark pages as free. No page may be mapped."""
        with self._lock:
            self._free += pages

    def close(self) -> None:
        """Return all pages to the device. All pages must be free."""
        for page in self._all:
            self._driver.release_page(page)
        self._all = []
        self._free = []
