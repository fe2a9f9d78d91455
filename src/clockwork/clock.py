"""The only module that reads the system's clocks.

A machine (`clockwork.machine`) gets the time as an argument. Only the host of a machine has a clock. Times of two
clocks can be compared only with the offset between the clocks (`clockwork.wire.clock_offset`).
"""

import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from clockwork.units import Nanos

P = ParamSpec("P")
T = TypeVar("T")


class Clock(Protocol):
    """The interface of clocks. A clock must never run backwards."""

    def now(self) -> Nanos:
        """Return the time in nanoseconds since a fixed point in the past."""
        ...


class MonotonicClock:
    """The system's monotonic clock. All processes of a machine share this clock.

    The clock does not depend on the time of day.
    """

    __slots__ = ()

    now = staticmethod(time.monotonic_ns)
    """Return the time in nanoseconds since about the start of the machine."""


def thread_time() -> Nanos:
    """Return the processor time of the calling thread, in nanoseconds."""
    return time.thread_time_ns()


def process_time(pid: int = 0) -> Nanos:
    """Return the processor time of all threads of a process, in nanoseconds. A ``pid`` of 0 means this process.

    Raises:
        OSError: no process has this number.
    """
    # The kernel's number for the clock of a process (clock_getcpuclockid(3)).
    return time.clock_gettime_ns((~pid << 3) | 2 if pid else time.CLOCK_PROCESS_CPUTIME_ID)


def monotonic_epoch() -> Nanos:
    """Return the time of day at which `MonotonicClock` was zero, in nanoseconds since 1970."""
    return time.time_ns() - time.monotonic_ns()


def with_time(clock: Clock, method: Callable[Concatenate[Nanos, P], T]) -> Callable[P, T]:
    """Return a function that calls a machine's method with the current time as the first argument."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return method(clock.now(), *args, **kwargs)

    return call


class OffsetClock:
    """A wrong clock for tests.

    The wrong clock is ahead of ``clock`` by ``offset_ns``. The wrong clock also runs too fast by ``drift_ppm``, from
    its creation on.
    """

    __slots__ = ("_clock", "_drift_ppm", "_offset_ns", "_start")

    def __init__(self, clock: Clock, offset_ns: Nanos = 0, drift_ppm: int = 0) -> None:
        self._clock = clock
        self._offset_ns = offset_ns
        self._drift_ppm = drift_ppm
        self._start = clock.now()

    def now(self) -> Nanos:
        """Return the time of the wrong clock."""
        now = self._clock.now()
        return now + self._offset_ns + (now - self._start) * self._drift_ppm // 1_000_000
