"""The only module that reads the system's clocks.

Rules of the file: machines get the time as an argument (`clockwork.machine`); a clock belongs to a host. Moments of two
clocks cannot be compared (`clockwork.wire.clock_offset`).
"""

import time
from typing import Protocol

from clockwork.units import Nanos


class Clock(Protocol):
    """Tells the time, and never runs backwards."""

    def now(self) -> Nanos:
        """Nanoseconds since some moment in the past."""
        ...


class MonotonicClock:
    """The system's monotonic clock: one for all processes of a host, not affected by whoever sets the time of day."""

    __slots__ = ()

    now = staticmethod(time.monotonic_ns)
    """Nanoseconds since about when the host was started."""


def thread_time() -> Nanos:
    """Return the processor time of the calling thread, in nanoseconds."""
    return time.thread_time_ns()


def process_time(pid: int = 0) -> Nanos:
    """Return the processor time of a process with all its threads, in nanoseconds; 0 stands for this one.

    Raises:
        OSError: there is no such process.
    """
    # The kernel's encoding of a process's clock (clock_getcpuclockid(3)).
    return time.clock_gettime_ns((~pid << 3) | 2 if pid else time.CLOCK_PROCESS_CPUTIME_ID)


def monotonic_epoch() -> Nanos:
    """When `MonotonicClock` was at zero by the time of day, in nanoseconds since 1970."""
    return time.time_ns() - time.monotonic_ns()


class OffsetClock:
    """A clock that is off: ahead of ``clock`` by ``offset_ns``, and gaining ``drift_ppm`` from now on. For tests."""

    __slots__ = ("_clock", "_drift_ppm", "_offset_ns", "_start")

    def __init__(self, clock: Clock, offset_ns: Nanos = 0, drift_ppm: int = 0) -> None:
        self._clock = clock
        self._offset_ns = offset_ns
        self._drift_ppm = drift_ppm
        self._start = clock.now()

    def now(self) -> Nanos:
        """What the clock that is off shows."""
        now = self._clock.now()
        return now + self._offset_ns + (now - self._start) * self._drift_ppm // 1_000_000
