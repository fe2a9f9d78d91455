"""Runs long work on an event loop in short steps, so that other work never waits for long.

A separate thread would not help, because the work (decoding and formatting) holds the interpreter's lock. So the event
loop does the work itself, in bursts of at most `MAX_BURST`, and polls its sockets between two bursts. All jobs of one
`Stepper` take turns, so that only one burst runs in each turn of the loop. The first step of a job runs at once, so a
job that has only one step never waits for a long job.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from clockwork.clock import Clock, MonotonicClock
from clockwork.steps import Steps
from clockwork.units import MICROSECOND, Nanos

MAX_BURST: Final[Nanos] = 300 * MICROSECOND
"""Time after which a burst ends, so that other tasks can run. The current step is finished first."""

BACKGROUND_REST: Final = 0.001
"""Pause in seconds between two bursts of work that is not urgent."""

T = TypeVar("T")


class Stepper:
    """Runs jobs in steps on one event loop.

    The jobs take turns with each other and with all other work of the loop.
    """

    def __init__(self) -> None:
        """Create a stepper that has no jobs."""
        self._one_burst = asyncio.Lock()
        self._clock: Clock = MonotonicClock()

    async def run(self, steps: Steps[T], rest: float = 0.0) -> T:
        """Run all steps of a job, and return its result.

        ``rest`` is a pause in seconds after each burst. A cancelled job stops before its next step.

        Raises:
            Exception: any exception that a step raises.
        """
        try:
            next(steps)
            while True:
                async with self._one_burst:
                    await asyncio.sleep(0)
                    end = self._clock.now() + MAX_BURST
                    next(steps)
                    while self._clock.now() < end:
                        next(steps)
                if rest:
                    await asyncio.sleep(rest)
        except StopIteration as end_of_steps:
            result: T = end_of_steps.value
            return result
        finally:
            steps.close()


class SharedResult(Generic[T]):
    """Computes a result once for all callers that wait at the same time.

    Each caller gets a result that was computed entirely after the call. The result is deleted when no caller waits for
    it any more.
    """

    def __init__(self, compute: Callable[[], Awaitable[T]]) -> None:
        """Create a shared result. ``compute`` computes a new result. Only one call of ``compute`` runs at a time."""
        self._compute = compute
        self._computing = asyncio.Lock()
        self._clock: Clock = MonotonicClock()
        self._latest: tuple[Nanos, T] | None = None  #: the time at which the computation began, and the result
        self._callers = 0

    async def get(self) -> T:
        """Return a result that was computed entirely after this call.

        Raises:
            Exception: any exception that ``compute`` raises.
        """
        called_at = self._clock.now()
        self._callers += 1
        try:
            async with self._computing:
                if self._latest is None or self._latest[0] < called_at:
                    began = self._clock.now()
                    self._latest = began, await self._compute()
                return self._latest[1]
        finally:
            self._callers -= 1
            if not self._callers:  # frees the result, which may be large
                self._latest = None
