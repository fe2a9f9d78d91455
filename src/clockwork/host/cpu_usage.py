"""Measures the share of the available processor time that the server's processes use.

Two shares are measured, and the larger share is the result. The first share is the time that the event loop uses of one
core. The loop is a single thread, so a server may be at its limit although other cores are idle. The second share is
the time that all processes of the server use of all cores. The second share is needed because the worker's threads may
compete with the loop for the same core.
"""

import os
from typing import Final

from clockwork.clock import process_time, thread_time
from clockwork.units import MILLISECOND, Nanos

PERIOD: Final[Nanos] = 25 * MILLISECOND
"""Shortest time over which the share is measured."""


class CpuUsage:
    """Measures the processor time of the calling thread and of its process.

    After a call of `follow`, also measures the process of the worker.
    """

    def __init__(self, now: Nanos) -> None:
        """Start measuring at ``now``."""
        self._worker: int | None = None
        self._began = now
        self._thread = thread_time()
        self._processes = self._used()

    def follow(self, worker: int) -> None:
        """Also measure the process with this id."""
        self._worker = worker
        self._processes = self._used()

    def sample(self, now: Nanos) -> float | None:
        """Return the share since the last sample, or None if the last sample was less than `PERIOD` ago."""
        passed = now - self._began
        if passed < PERIOD:
            return None
        thread, processes = thread_time(), self._used()
        share = max((thread - self._thread) / passed, (processes - self._processes) / (passed * self._cores()))
        self._began, self._thread, self._processes = now, thread, processes
        return min(1.0, max(0.0, share))

    def _used(self) -> Nanos:
        used = process_time()
        if self._worker is not None:
            try:
                used += process_time(self._worker)
            except OSError:
                self._worker = None
        return used

    def _cores(self) -> int:
        cores = os.sched_getaffinity(0)
        if self._worker is not None:
            try:
                cores |= os.sched_getaffinity(self._worker)
            except OSError:
                self._worker = None
        return len(cores)
