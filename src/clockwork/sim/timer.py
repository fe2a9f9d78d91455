"""Keeps one machine's promise to be woken: the simulator's counterpart of the live host's `Driver`."""

from collections.abc import Callable
from typing import Any, Final

from clockwork.sim.loop import Loop
from clockwork.units import Nanos

MAX_WAKEUPS: Final = 10_000
"""Wakes at one moment: a machine that wants more will never let time pass."""


class EndlessWakeupsError(Exception):
    """A machine asks again and again to be woken at a moment that is there."""


class Timer:
    """Armed for the earliest moment asked for; a shot that comes too early asks again."""

    __slots__ = ("_armed", "_in_a_row", "_last", "_loop", "_next", "_wake")

    def __init__(self, loop: Loop, next_wakeup: Callable[[], Nanos | None], wake: Callable[[], None]) -> None:
        """``next_wakeup`` says, on the loop's clock, when ``wake`` is to be called."""
        self._loop = loop
        self._next = next_wakeup
        self._wake = wake
        self._armed: Nanos | None = None
        self._last: Nanos = -1
        self._in_a_row = 0

    def arm(self) -> None:
        """The machine has moved: ask it."""
        moment = self._next()
        if moment is not None and (self._armed is None or moment < self._armed):
            self._armed = moment
            self._loop.at(moment, self._fire, moment)

    def _fire(self, moment: Any) -> None:
        if moment != self._armed:
            return  # armed for an earlier one meanwhile
        self._armed = None
        due = self._next()
        if due is not None and due <= self._loop.now:
            self._in_a_row = self._in_a_row + 1 if self._last == moment else 0
            self._last = moment
            if self._in_a_row > MAX_WAKEUPS:
                raise EndlessWakeupsError(f"a machine asked {MAX_WAKEUPS} times to be woken at {moment}, and goes on")
            self._wake()
        self.arm()
