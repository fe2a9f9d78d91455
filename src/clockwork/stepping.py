"""Runs long work on an event loop in steps, so that other work waits for one step at most.

Theory of operation. A thread would not help: decoding and formatting hold the interpreter's lock. So the loop does the
work itself, for at most `MAX_BURST` at a time, and polls its sockets before the next burst. All users of one `Stepper`
take turns: however many jobs are under way, one burst runs in each turn of the loop. The first step of a job runs at
once, so a job of one step never waits behind a long one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from clockwork.clock import Clock, MonotonicClock
from clockwork.steps import Steps
from clockwork.units import MICROSECOND, Nanos

MAX_BURST: Final[Nanos] = 300 * MICROSECOND
"""Work after which other tasks get their turn; a step that has begun is finished."""

BACKGROUND_REST: Final = 0.001
"""Seconds between two bursts of work that no inference waits for."""

T = TypeVar("T")


class Stepper:
    """Lets jobs of one event loop take turns with each other and with everything else."""

    def __init__(self) -> None:
        """No job is under way."""
        self._one_burst = asyncio.Lock()
        self._clock: Clock = MonotonicClock()

    async def run(self, steps: Steps[T], rest: float = 0.0) -> T:
        """Run all steps and return the result; ``rest`` is a pause in seconds after each burst.

        A cancelled job stops at its next step.

        Raises:
            Exception: whatever a step raises.
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
    """A result that all callers of one moment share.

    A caller gets a result whose making began after the call. The result is dropped when no caller waits for it.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        """``make`` makes a new result; at most one call of it runs at a time."""
        self._make = make
        self._making = asyncio.Lock()
        self._clock: Clock = MonotonicClock()
        self._made: tuple[Nanos, T] | None = None  #: when its making began, and the result
        self._callers = 0

    async def get(self) -> T:
        """Return a result that was made after this call.

        Raises:
            Exception: whatever ``make`` raises.
        """
        came = self._clock.now()
        self._callers += 1
        try:
            async with self._making:
                if self._made is None or self._made[0] < came:
                    began = self._clock.now()
                    self._made = began, await self._make()
                return self._made[1]
        finally:
            self._callers -= 1
            if not self._callers:  # it may be large
                self._made = None
