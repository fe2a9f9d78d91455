"""Manages the fixed addresses of a model's weights.

Pages are mapped to these addresses while the weights are loaded.
"""

from clockwork.runtimes.torch.cuda.driver import Address, Driver, Handle
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.units import Pages


class WeightsRange:
    """A range of addresses, which stays reserved until `close`. Not safe for use by several threads at once."""

    def __init__(self, driver: Driver, cache: PageCache, pages: Pages) -> None:
        """Reserve the addresses. Raise `CudaError` if no addresses are free."""
        self._driver = driver
        self._cache = cache
        self._count = pages
        self._nbytes = pages * cache.page_size
        self.address: Address = driver.reserve(self._nbytes)
        self._pages: list[Handle] = []

    @property
    def mapped(self) -> bool:
        """Whether pages are mapped to the addresses."""
        return bool(self._pages)

    def map(self) -> None:
        """Map pages of the cache to the addresses. If the call fails, the mapping is unchanged.

        Raises:
            ServerError: too few pages are free, or the driver failed.
        """
        assert not self._pages, "the range is mapped already"
        pages = self._cache.take(self._count)
        size = self._cache.page_size
        done = 0
        try:
            for page in pages:
                self._driver.map(self.address + done * size, size, page)
                done += 1
            self._driver.allow(self.address, self._nbytes)
        except Exception:
            self._unmap_pages(done)
            self._cache.put_back(pages)
            raise
        self._pages = pages

    def unmap(self) -> None:
        """Unmap and free the pages, if any are mapped. No running work may use the weights."""
        if not self._pages:
            return
        pages, self._pages = self._pages, []
        self._unmap_pages(len(pages))
        self._cache.put_back(pages)

    def close(self) -> None:
        """Free the addresses, and the pages that are mapped to them."""
        self.unmap()
        self._driver.free_range(self.address, self._nbytes)

    def _unmap_pages(self, count: Pages) -> None:
        size = self._cache.page_size
        for i in range(count):  # the pages are unmapped one by one, because they were mapped one by one
            self._driver.unmap(self.address + i * size, size)
