"""Counts the pages of a device's weights cache.

Each page in use belongs to a model. The models are kept in the order of their last use. The worker uses this class, and
the controller's view of the worker uses it too. The module only counts pages, and does not access their content.
"""

from collections.abc import Iterator

from clockwork.units import Pages


class PageCache:
    """Counts the pages of a cache with ``total`` pages.

    ``used`` is the number of pages that all owners have together. ``used`` is at most ``total``.
    """

    def __init__(self, total: Pages) -> None:
        """Create a cache in which all pages are free.

        Raises:
            ValueError: ``total`` is negative.
        """
        if total < 0:
            raise ValueError(f"cache has {total} pages; the number must not be negative")
        self.total = total
        self._used: Pages = 0
        self._owners: dict[str, Pages] = {}  #: pages of each owner, least recently used owner first

    @property
    def used(self) -> Pages:
        """The number of pages that have an owner."""
        return self._used

    @property
    def free(self) -> Pages:
        """The number of free pages."""
        return self.total - self._used

    def __contains__(self, owner: str) -> bool:
        return owner in self._owners

    def __iter__(self) -> Iterator[str]:
        """Iterate over the owners, least recently used first."""
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

    def pages_of(self, owner: str) -> Pages:
        """Return the number of pages that ``owner`` has."""
        return self._owners.get(owner, 0)

    def take(self, owner: str, pages: Pages) -> bool:
        """Give pages to ``owner``, and return True. Return False if too few pages are free.

        ``owner`` becomes the most recently used owner.

        Raises:
            ValueError: ``owner`` already has pages, or ``pages`` is negative.
        """
        if pages < 0 or owner in self._owners:
            raise ValueError(f"{owner!r} has {self.pages_of(owner)} pages and cannot take {pages}")
        if pages > self.free:
            return False
        self._owners[owner] = pages
        self._used += pages
        return True

    def give_back(self, owner: str) -> Pages:
        """Free all pages of ``owner``, and return their number.

        Raises:
            KeyError: ``owner`` has no pages.
        """
        pages = self._owners.pop(owner)
        self._used -= pages
        return pages

    def touch(self, owner: str) -> None:
        """Make ``owner`` the most recently used owner.

        Raises:
            KeyError: ``owner`` has no pages.
        """
        self._owners[owner] = self._owners.pop(owner)


def pages_for(size: int, page_size: int) -> Pages:
    """Return the number of pages that are needed for ``size`` bytes.

    The result is at least 1, so that every loaded model has a page.
    """
    return max(1, -(-size // page_size))
