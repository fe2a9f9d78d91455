"""Gives memory back to the system: little may stay free while no request is pending, much more while requests come.

The allocator keeps what requests have freed, since the next ones need as much. That is right while they come, and would
otherwise last until the process ends. Calls over gRPC that end leave memory in small pieces between others.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork import malloc
from clockwork.units import MIB, Bytes

EVERY: Final = 1.0
"""Seconds between two looks at the heap."""

MAX_FREE: Final[Bytes] = 4 * MIB
"""Free memory that the allocator keeps while the server is idle, beside what it cannot give back."""

MAX_FREE_BUSY: Final[Bytes] = 64 * MIB
"""The same while requests are pending."""

BUSY_LOOKS: Final = 10
"""While requests are pending, only one look of so many counts: giving 100 MiB back takes a few milliseconds."""


class MemoryTrimmer:
    """Use it on one running event loop; the work is done in a thread, without the interpreter's lock."""

    def __init__(self, is_idle: Callable[[], bool], every: float = EVERY, max_free: Bytes = MAX_FREE) -> None:
        """``is_idle`` tells whether no request is pending; ``every`` is in seconds, ``max_free`` is for idle times."""
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
        busy = 0  #: looks since the last one that counted
        while True:
            await asyncio.sleep(self._every)
            idle = self._is_idle()
            busy += 1
            if idle or busy >= BUSY_LOOKS:
                busy = 0
                await asyncio.to_thread(self._trim, self._max_free if idle else MAX_FREE_BUSY)

    def _trim(self, max_free: Bytes) -> None:
        free = malloc.free_bytes()
        if free > self._fixed + max_free:
            malloc.trim()
            self._fixed = malloc.free_bytes()
        else:
            self._fixed = min(self._fixed, free)
