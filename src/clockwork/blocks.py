"""An allocator of consecutive blocks.

The allocator uses the first gap that is large enough, beginning at the lowest block. So recently used blocks are soon
used again. The allocator handles only the numbers of blocks. The callers of the allocator map these numbers to memory.
"""

from bisect import bisect_left, insort


class BlockAllocator:
    """Allocates and frees blocks. The blocks have the numbers 0 to ``count - 1``."""

    def __init__(self, count: int) -> None:
        """Create an allocator of ``count`` blocks, all of which are free."""
        self._free: list[tuple[int, int]] = (
            [(0, count)] if count else []
        )  #: start and end of each gap, in ascending order
        self._allocated: dict[int, int] = {}  #: start of each allocation -> end of the allocation

    @property
    def allocated(self) -> int:
        """The number of allocated blocks."""
        return sum(end - begin for begin, end in self._allocated.items())

    def allocate(self, count: int) -> int | None:
        """Allocate ``count`` consecutive blocks. Return the first block, or None if no gap is large enough."""
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
        """Free the blocks of the allocation that begins at block ``begin``.

        Raises:
            KeyError: no allocation begins at this block.
        """
        end = self._allocated.pop(begin)
        i = bisect_left(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == begin:
            begin = self._free.pop(i - 1)[0]
        insort(self._free, (begin, end))
