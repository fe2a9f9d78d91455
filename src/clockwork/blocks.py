"""An allocator of consecutive blocks: first fit from the lowest block, so that recently used blocks are used again.

The allocator handles block numbers only, and knows nothing about the memory behind them.
"""

from bisect import bisect_left, insort


class BlockAllocator:
    """Blocks 0 to ``count - 1``."""

    def __init__(self, count: int) -> None:
        """Start with ``count`` free blocks."""
        self._free: list[tuple[int, int]] = [(0, count)] if count else []  #: begin and end of each gap, ascending
        self._allocated: dict[int, int] = {}  #: begin -> end

    @property
    def allocated(self) -> int:
        """The number of allocated blocks."""
        return sum(end - begin for begin, end in self._allocated.items())

    def allocate(self, count: int) -> int | None:
        """Allocate ``count`` consecutive blocks; return the first, or None if no gap is large enough."""
        for i, (begin, end) in enumerate(self._free):
            if end - begin >= count:
                rest = begin + count
                if rest == end:
                    del self._free[i]
                else:
                    self._free[i] = (rest, end)
                self._allocated[begin] = rest
                return begin
        return None

    def free(self, begin: int) -> None:
        """Free the blocks that were allocated from ``begin`` on.

        Raises:
            KeyError: no allocation begins there.
        """
        end = self._allocated.pop(begin)
        i = bisect_left(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == begin:
            begin = self._free.pop(i - 1)[0]
        insort(self._free, (begin, end))
