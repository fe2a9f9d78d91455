"""Virtual time: a heap of what will happen. Ties happen in the order in which they were scheduled."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from clockwork.units import Nanos

MAX_EVENTS: Final = 2_000_000
"""Events at one moment: more is a circle."""


class StandstillError(Exception):
    """Things happen, and no time passes."""


class Loop:
    """The heap. ``now`` moves only in `run`."""

    __slots__ = ("_heap", "_sequence", "events", "now")

    def __init__(self) -> None:
        """At the beginning of time."""
        self.now: Nanos = 0
        self.events = 0  #: happened so far
        self._heap: list[tuple[Nanos, int, Callable[[Any], None], Any]] = []
        self._sequence = 0

    def at(self, moment: Nanos, action: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``action(argument)`` at ``moment``, or now if that has passed."""
        self._sequence += 1
        heappush(self._heap, (moment if moment > self.now else self.now, self._sequence, action, argument))

    def next_event(self) -> Nanos | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    def run(self, until: Nanos) -> None:
        """Let everything happen that is due by ``until``."""
        heap = self._heap
        before, begun = self.now, self.events
        while heap and heap[0][0] <= until:
            moment, _, action, argument = heappop(heap)
            if moment != before:
                before, begun = moment, self.events
            elif self.events - begun > MAX_EVENTS:
                raise StandstillError(f"time stands still at {moment} ns: {MAX_EVENTS} events, and more to come")
            self.now = moment
            self.events += 1
            action(argument)
        self.now = max(self.now, until)
