"""Gives memory back to the system after a burst of large requests, while no request is pending.

The allocator keeps what requests have freed, since the next ones need as much. That is right while they come, and would
otherwise last until the process ends.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork import heap
from clockwork.units import MIB, Bytes

EVERY: Final = 1.0
"""Seconds between two looks at the heap."""

MAX_FREE: Final[Bytes] = 4 * MIB
"""Free memory that the allocator keeps while the server is idle, beside what it cannot give back."""


class Trimming:
    """Use it on one running event loop; the work is done in a thread, without the interpreter's lock."""

    def __init__(self, is_idle: Callable[[], bool], every: float = EVERY, max_free: Bytes = MAX_FREE) -> None:
        """``is_idle`` tells whether no request is pending; ``every`` is in seconds."""
        self._is_idle = is_idle
        self._every = every
        self._max_free = max_free
        self._fixed: Bytes = 0  #: free memory that it could not give back
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look at the heap."""
        self._task = asyncio.ensure_future(self._run())

    def close(self) -> None:
        """Look at it no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            if self._is_idle():
                await asyncio.to_thread(self._trim)

    def _trim(self) -> None:
        free = heap.free()
        if free > self._fixed + self._max_free:
            heap.trim()
            self._fixed = heap.free()
        else:
            self._fixed = min(self._fixed, free)
