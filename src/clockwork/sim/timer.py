"""Wakes one machine when it wants to be woken: the simulator's counterpart of the live host's `MachineRunner`."""

from collections.abc import Callable
from typing import Any, Final

from clockwork.sim.loop import Loop
from clockwork.units import Nanos

MAX_WAKEUPS: Final = 10_000
"""Limit of wake-ups at one moment; a machine that wants more would stop time."""


class EndlessWakeupsError(Exception):
    """A machine keeps requesting a wake-up at the present moment."""


class Timer:
    """A timer for the earliest wake-up that a machine wants."""

    __slots__ = ("_armed", "_in_a_row", "_last", "_loop", "_next", "_wake")

    def __init__(self, loop: Loop, next_wakeup: Callable[[], Nanos | None], wake: Callable[[], None]) -> None:
        """``next_wakeup`` returns, on the loop's clock, when to call ``wake``."""
        self._loop = loop
        self._next = next_wakeup
        self._wake = wake
        self._armed: Nanos | None = None
        self._last: Nanos = -1
        self._in_a_row = 0

    def arm(self) -> None:
        """Ask the machine for its next wake-up, after each event that it handled."""
        moment = self._next()
        if moment is not None and (self._armed is None or moment < self._armed):
            self._armed = moment
            self._loop.at(moment, self._fire, moment)

    def _fire(self, moment: Any) -> None:
        if moment != self._armed:
            return  # the timer was armed for an earlier moment meanwhile
        self._armed = None
        due = self._next()
        if due is not None and due <= self._loop.now:
            self._in_a_row = self._in_a_row + 1 if self._last == moment else 0
            self._last = moment
            if self._in_a_row > MAX_WAKEUPS:
                raise EndlessWakeupsError(f"a machine requested more than {MAX_WAKEUPS} wake-ups at {moment} ns")
            self._wake()
        self.arm()
