"""A device's weights cache as accounting: a fixed number of pages, owned by models, in order of last use.

Rules of the file: the worker's truth and the controller's picture of it are this same class. It counts pages and knows
nothing of what lies in them.
"""

from collections.abc import Iterator

from clockwork.units import Pages


class PageCache:
    """``total`` pages. Invariant: ``0 <= used <= total``, and ``used`` is the sum over the owners."""

    def __init__(self, total: Pages) -> None:
        """A cache with all its pages free.

        Raises:
            ValueError: ``total`` is negative.
        """
        if total < 0:
            raise ValueError(f"a cache of {total} pages")
        self.total = total
        self._used: Pages = 0
        self._owners: dict[str, Pages] = {}  #: least recently used first

    @property
    def used(self) -> Pages:
        """Pages that are owned."""
        return self._used

    @property
    def free(self) -> Pages:
        """Pages that are not."""
        return self.total - self._used

    def __contains__(self, owner: str) -> bool:
        return owner in self._owners

    def __iter__(self) -> Iterator[str]:
        """The owners, least recently used first."""
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

    def pages_of(self, owner: str) -> Pages:
        """How many pages ``owner`` has; 0 if none."""
        return self._owners.get(owner, 0)

    def take(self, owner: str, pages: Pages) -> bool:
        """Give ``owner`` its pages, as the most recently used; False, and nothing changes, if too few are free.

        Raises:
            ValueError: ``owner`` has pages already, or ``pages`` is negative.
        """
        if pages < 0 or owner in self._owners:
            raise ValueError(f"{owner!r} asks for {pages} pages and has {self.pages_of(owner)}")
        if pages > self.free:
            return False
        self._owners[owner] = pages
        self._used += pages
        return True

    def give_back(self, owner: str) -> Pages:
        """Free all pages of ``owner``; returns how many.

        Raises:
            KeyError: ``owner`` has none.
        """
        pages = self._owners.pop(owner)
        self._used -= pages
        return pages

    def touch(self, owner: str) -> None:
        """``owner`` is now the most recently used.

        Raises:
            KeyError: ``owner`` has no pages.
        """
        self._owners[owner] = self._owners.pop(owner)


def pages_for(size: int, page_size: int) -> Pages:
    """Pages that ``size`` bytes take; at least one, so that every loaded model is accounted for."""
    return max(1, -(-size // page_size))
