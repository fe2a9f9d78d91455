"""Returns free memory to the system.

An idle process may keep little free memory; while requests are pending, it may keep more.

The allocator keeps the memory that requests have freed, since the next requests need as much. Without this module it
would keep that memory until the process ends. Finished gRPC calls leave free memory in small pieces between used ones.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork import malloc
from clockwork.units import MIB, Bytes

EVERY: Final = 1.0
"""Seconds between two checks of the heap."""

MAX_FREE: Final[Bytes] = 4 * MIB
"""Free memory, beyond the part that it cannot return, that the allocator may keep while no request is pending."""

MAX_FREE_BUSY: Final[Bytes] = 64 * MIB
"""Free memory that the allocator may keep while requests are pending."""

BUSY_CHECKS: Final = 10
"""While requests are pending, only every tenth check may trim: returning 100 MiB takes a few milliseconds."""


class MemoryTrimmer:
    """Checks the heap at intervals on one running event loop; trims it in a thread, without the interpreter lock."""

    def __init__(self, is_idle: Callable[[], bool], every: float = EVERY, max_free: Bytes = MAX_FREE) -> None:
        """``is_idle`` returns whether no request is pending; ``every`` is in seconds; ``max_free`` holds while idle."""
        self._is_idle = is_idle
        self._every = every
        self._max_free = max_free
        self._fixed: Bytes = 0  #: free memory that could not be returned
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start checking the heap."""
        self._task = asyncio.ensure_future(self._run())

    def close(self) -> None:
        """Stop checking the heap."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        busy = 0  #: checks since the last one that could trim
        while True:
            await asyncio.sleep(self._every)
            idle = self._is_idle()
            busy += 1
            if idle or busy >= BUSY_CHECKS:
                busy = 0
                await asyncio.to_thread(self._trim, self._max_free if idle else MAX_FREE_BUSY)

    def _trim(self, max_free: Bytes) -> None:
        free = malloc.free_bytes()
        if free > self._fixed + max_free:
            malloc.trim()
            self._fixed = malloc.free_bytes()
        else:
            self._fixed = min(self._fixed, free)
