"""Wakes a machine at its wake-up times, as the live host's `MachineRunner` does."""

from collections.abc import Callable
from typing import Any, Final

from clockwork.sim.loop import Loop
from clockwork.units import Nanos

MAX_WAKEUPS: Final = 10_000
"""Limit of wake-ups at one moment. More wake-ups mean that time stands still."""


class EndlessWakeupsError(Exception):
    """Raised if a machine requests wake-ups at the present moment again and again."""


class Timer:
    """A timer for the next wake-up time of a machine."""

    __slots__ = ("_armed", "_in_a_row", "_last", "_loop", "_next", "_wake")

    def __init__(self, loop: Loop, next_wakeup: Callable[[], Nanos | None], wake: Callable[[], None]) -> None:
        """``next_wakeup`` returns the time, on the loop's clock, at which to call ``wake``."""
        self._loop = loop
        self._next = next_wakeup
        self._wake = wake
        self._armed: Nanos | None = None
        self._last: Nanos = -1
        self._in_a_row = 0

    def arm(self) -> None:
        """Ask the machine for its next wake-up time. Call this after each event that the machine has handled."""
        moment = self._next()
        if moment is not None and (self._armed is None or moment < self._armed):
            self._armed = moment
            self._loop.at(moment, self._fire, moment)

    def _fire(self, moment: Any) -> None:
        if moment != self._armed:
            return  # meanwhile, the timer was set to an earlier moment
        self._armed = None
        due = self._next()
        if due is not None and due <= self._loop.now:
            self._in_a_row = self._in_a_row + 1 if self._last == moment else 0
            self._last = moment
            if self._in_a_row > MAX_WAKEUPS:
                raise EndlessWakeupsError(f"a machine requested more than {MAX_WAKEUPS} wake-ups at {moment} ns")
            self._wake()
        self.arm()
