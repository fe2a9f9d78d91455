"""The only module that reads the system's clocks.

Machines get the time as an argument (`clockwork.machine`); only their hosts have a clock. Times of two clocks cannot be
compared without an offset (`clockwork.wire.clock_offset`).
"""

import time
from typing import Protocol

from clockwork.units import Nanos


class Clock(Protocol):
    """A clock that never runs backwards."""

    def now(self) -> Nanos:
        """Return the nanoseconds since some moment in the past."""
        ...


class MonotonicClock:
    """The system's monotonic clock: one for all processes of a host, independent of the time of day."""

    __slots__ = ()

    now = staticmethod(time.monotonic_ns)
    """Return the nanoseconds since about the start of the host."""


def thread_time() -> Nanos:
    """Return the processor time of the calling thread, in nanoseconds."""
    return time.thread_time_ns()


def process_time(pid: int = 0) -> Nanos:
    """Return the processor time of a process with all its threads, in nanoseconds; ``pid`` 0 is this process.

    Raises:
        OSError: there is no such process.
    """
    # The kernel's encoding of a process's clock (clock_getcpuclockid(3)).
    return time.clock_gettime_ns((~pid << 3) | 2 if pid else time.CLOCK_PROCESS_CPUTIME_ID)


def monotonic_epoch() -> Nanos:
    """Return the time of day at which `MonotonicClock` was zero, in nanoseconds since 1970."""
    return time.time_ns() - time.monotonic_ns()


class OffsetClock:
    """A wrong clock for tests: ahead of ``clock`` by ``offset_ns``, and too fast by ``drift_ppm`` from now on."""

    __slots__ = ("_clock", "_drift_ppm", "_offset_ns", "_start")

    def __init__(self, clock: Clock, offset_ns: Nanos = 0, drift_ppm: int = 0) -> None:
        self._clock = clock
        self._offset_ns = offset_ns
        self._drift_ppm = drift_ppm
        self._start = clock.now()

    def now(self) -> Nanos:
        """Return the time that the wrong clock shows."""
        now = self._clock.now()
        return now + self._offset_ns + (now - self._start) * self._drift_ppm // 1_000_000
