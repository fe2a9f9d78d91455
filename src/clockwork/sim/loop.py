"""Implements virtual time with a heap of scheduled events.

Events at one moment happen in the order in which they were scheduled.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from clockwork.units import Nanos

MAX_EVENTS: Final = 2_000_000
"""Largest number of events at one moment. More events indicate an endless cycle."""


class StandstillError(Exception):
    """Raised if events happen but time does not advance."""


class Loop:
    """An event loop in virtual time. ``now`` advances only in `run`."""

    __slots__ = ("_heap", "_sequence", "events", "now")

    def __init__(self) -> None:
        """Start at time 0."""
        self.now: Nanos = 0
        self.events = 0  #: number of events so far
        self._heap: list[tuple[Nanos, int, Callable[[Any], None], Any]] = []
        self._sequence = 0

    def at(self, moment: Nanos, action: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``action(argument)`` at ``moment``, or now if ``moment`` has passed."""
        self._sequence += 1
        heappush(self._heap, (moment if moment > self.now else self.now, self._sequence, action, argument))

    def next_event(self) -> Nanos | None:
        """Return the time of the next event, or None if there is none."""
        return self._heap[0][0] if self._heap else None

    def run(self, until: Nanos) -> None:
        """Run all events that are due by ``until``."""
        heap = self._heap
        before, begun = self.now, self.events
        while heap and heap[0][0] <= until:
            moment, _, action, argument = heappop(heap)
            if moment != before:
                before, begun = moment, self.events
            elif self.events - begun > MAX_EVENTS:
                raise StandstillError(f"time stands still at {moment} ns: more than {MAX_EVENTS} events")
            self.now = moment
            self.events += 1
            action(argument)
        self.now = max(self.now, until)
