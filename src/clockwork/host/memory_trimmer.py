"""Returns free memory to the system.

An idle process keeps only little free memory. While requests are pending, the process may keep more.

While requests arrive, it is useful that the allocator keeps freed memory, because the next requests need as much. But
without this module, the allocator would keep this memory until the process ends. One reason is that finished gRPC calls
leave small free pieces between pieces in use.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork import malloc
from clockwork.units import MIB, Bytes

EVERY: Final = 1.0
"""Seconds between two checks of the heap."""

MAX_FREE: Final[Bytes] = 4 * MIB
"""Limit of the free memory that the allocator may keep while no request is pending.

Free memory that the allocator has returned, or cannot return, to the system does not count.
"""

MAX_FREE_BUSY: Final[Bytes] = 64 * MIB
"""Limit of the free memory that the allocator may keep while requests are pending."""

BUSY_CHECKS: Final = 10
"""While requests are pending, only every tenth check may return memory. Returning 100 MiB takes a few milliseconds."""


class MemoryTrimmer:
    """Checks the heap at intervals on a running event loop.

    A thread returns the memory without the interpreter's lock.
    """

    def __init__(self, is_idle: Callable[[], bool], every: float = EVERY, max_free: Bytes = MAX_FREE) -> None:
        """``is_idle`` returns whether no request is pending. ``every`` is in seconds.

        ``max_free`` applies while no request is pending.
        """
        self._is_idle = is_idle
        self._every = every
        self._max_free = max_free
        self._fixed: Bytes = 0  #: free memory that was returned already or could not be returned
        self._resident: Bytes = 0  #: smallest resident memory since memory was last returned
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start checking the heap."""
        self._task = asyncio.ensure_future(self._run())

    def close(self) -> None:
        """Stop checking the heap."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        busy = 0  #: number of checks since the last call of `_trim`
        while True:
            await asyncio.sleep(self._every)
            idle = self._is_idle()
            busy += 1
            if idle or busy >= BUSY_CHECKS:
                busy = 0
                await asyncio.to_thread(self._trim, self._max_free if idle else MAX_FREE_BUSY)

    def _trim(self, max_free: Bytes) -> None:
        free, resident = malloc.free_bytes(), malloc.resident_bytes()
        is_freed = free > self._fixed + max_free
        # Blocks in memory that was returned make that memory resident again. If they are freed before the next check,
        # the number of free bytes is the same as before.
        is_reused = free > max_free and resident > self._resident + max_free
        if is_freed or is_reused:
            malloc.trim()
            after = malloc.resident_bytes()
            if resident - after > max_free:  # more may have been freed meanwhile, so the next check trims again
                self._fixed = self._resident = 0
                return
            self._fixed, self._resident = min(free, malloc.free_bytes()), min(resident, after)
        else:
            self._fixed, self._resident = min(self._fixed, free), min(self._resident, resident)
