"""Which parts of a range are taken: first fit, lowest first, so that what was used last is used next.

Rules of the file: numbers only. Whose blocks they are, and of what, is somebody else's business.
"""

from bisect import bisect_left, insort


class BlockAllocator:
    """A row of blocks."""

    def __init__(self, count: int) -> None:
        """All ``count`` are free."""
        self._free: list[tuple[int, int]] = [(0, count)] if count else []  #: begin and end of each gap, ascending
        self._taken: dict[int, int] = {}  #: begin -> end

    @property
    def allocated(self) -> int:
        """How many are taken."""
        return sum(end - begin for begin, end in self._taken.items())

    def allocate(self, count: int) -> int | None:
        """The first of ``count`` blocks in a row, which are taken from now on; None if there are not so many."""
        for i, (begin, end) in enumerate(self._free):
            if end - begin >= count:
                taken = begin + count
                if taken == end:
                    del self._free[i]
                else:
                    self._free[i] = (taken, end)
                self._taken[begin] = taken
                return begin
        return None

    def free(self, begin: int) -> None:
        """What was taken from ``begin`` on is free again.

        Raises:
            KeyError: nothing was.
        """
        end = self._taken.pop(begin)
        i = bisect_left(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == begin:
            begin = self._free.pop(i - 1)[0]
        insort(self._free, (begin, end))
