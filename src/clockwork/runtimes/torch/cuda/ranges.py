"""Addresses that a model's weights have for good, with pages behind them while they are loaded."""

from clockwork.runtimes.torch.cuda.driver import Address, Driver, Handle
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.units import Pages


class WeightsRange:
    """A range of addresses, reserved until `close`. One thread at a time calls it."""

    def __init__(self, driver: Driver, cache: PageCache, pages: Pages) -> None:
        """Raises `CudaError` if there are no addresses."""
        self._driver = driver
        self._cache = cache
        self._count = pages
        self._nbytes = pages * cache.page_size
        self.address: Address = driver.reserve(self._nbytes)
        self._pages: list[Handle] = []

    @property
    def mapped(self) -> bool:
        """Whether there is memory behind the addresses."""
        return bool(self._pages)

    def map(self) -> None:
        """Put pages of the cache behind the addresses. If that fails, nothing has changed.

        Raises:
            ServerError: there are not enough pages, or the driver could not.
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
            self._take_away(done)
            self._cache.give(pages)
            raise
        self._pages = pages

    def unmap(self) -> None:
        """Give the pages back; nothing that runs uses the weights. Does nothing if there are none."""
        if not self._pages:
            return
        pages, self._pages = self._pages, []
        self._take_away(len(pages))
        self._cache.give(pages)

    def close(self) -> None:
        """Give the addresses back, and the pages if there are any."""
        self.unmap()
        self._driver.free_range(self.address, self._nbytes)

    def _take_away(self, count: Pages) -> None:
        size = self._cache.page_size
        for i in range(count):  # what was mapped page by page is unmapped so
            self._driver.unmap(self.address + i * size, size)
