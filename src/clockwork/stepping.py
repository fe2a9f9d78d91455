"""Runs long work on an event loop in steps, so that other work waits for at most one step.

Theory of operation. A thread would not help, because decoding and formatting hold the interpreter's lock. So the loop
does the work itself, for at most `MAX_BURST` at a time, and polls its sockets before the next burst. All jobs of one
`Stepper` take turns: one burst runs in each turn of the loop, however many jobs are under way. The first step of a job
runs at once, so a job of one step never waits behind a long one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from clockwork.clock import Clock, MonotonicClock
from clockwork.steps import Steps
from clockwork.units import MICROSECOND, Nanos

MAX_BURST: Final[Nanos] = 300 * MICROSECOND
"""Time after which other tasks get their turn; a step that has begun is finished."""

BACKGROUND_REST: Final = 0.001
"""Pause in seconds between two bursts of work that no inference waits for."""

T = TypeVar("T")


class Stepper:
    """Runs jobs of one event loop in turns with each other and with all other work."""

    def __init__(self) -> None:
        """Start with no job."""
        self._one_burst = asyncio.Lock()
        self._clock: Clock = MonotonicClock()

    async def run(self, steps: Steps[T], rest: float = 0.0) -> T:
        """Run all steps and return the result; ``rest`` is a pause in seconds after each burst.

        A cancelled job stops at its next step.

        Raises:
            Exception: a step raised it.
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
    """A result that concurrent callers share.

    A caller gets a result whose computation began after the call. The result is dropped when no caller waits for it.
    """

    def __init__(self, compute: Callable[[], Awaitable[T]]) -> None:
        """``compute`` computes a new result; at most one call of it runs at a time."""
        self._compute = compute
        self._computing = asyncio.Lock()
        self._clock: Clock = MonotonicClock()
        self._latest: tuple[Nanos, T] | None = None  #: when its computation began, and the result
        self._callers = 0

    async def get(self) -> T:
        """Return a result whose computation began after this call.

        Raises:
            Exception: ``compute`` raised it.
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
            if not self._callers:  # the result may be large
                self._latest = None
