"""Decides which action of a lane starts next and which is late. A lane is a queue of timed actions.

An action starts neither before ``earliest`` nor after ``latest``. A lane runs one action at a time, in order of
``earliest`` and then of arrival. An action is late one nanosecond after its ``latest``. A late action leaves the queue,
even while another action runs, and does not delay other actions.

Theory of operation. An action that is due may have to wait for a task of another lane, such as the load of its weights.
Such an action is *blocked*. The core passes a function ``blocked`` that returns whether an action is blocked. In a lane
with *overtaking*, later actions may start before a blocked action. In lanes without overtaking, later actions wait
until the blocked action has started.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from msgspec import Struct

from clockwork.messages.actions import Action, EvictWeights, LoadWeights
from clockwork.units import FOREVER, Nanos

MAX_QUEUED: Final = 10_000
"""Limit of the actions that wait in a lane. Normally far fewer actions wait, because a controller plans only
milliseconds ahead.
"""


class Entry(Struct, eq=False):
    """An action in a lane, with its window and payloads.

    ``orphaned`` means that the action's controller is lost, so the result is not needed.
    """

    action: Action
    earliest: Nanos
    latest: Nanos
    payloads: tuple[object, ...] = ()
    orphaned: bool = False


class Lane:
    """The waiting actions and the running action of a lane."""

    def __init__(self, overtaking: bool) -> None:
        """``overtaking`` means that an action that is due may start before a blocked action."""
        self.running: Entry | None = None
        self._overtaking = overtaking
        self._arrivals = 0
        self._entries: dict[int, Entry] = {}  #: waiting entries by arrival
        self._order: list[tuple[Nanos, int]] = []  #: (earliest, arrival) of the waiting entries, sorted

        #: a heap of (latest, arrival); some of these actions no longer wait
        self._expiries: list[tuple[Nanos, int]] = []
        self._loads: Counter[str] = Counter()  #: model -> number of waiting LoadWeights
        self._evictions: Counter[str] = Counter()  #: model -> number of waiting EvictWeights

    def __len__(self) -> int:
        """Number of waiting actions."""
        return len(self._order)

    def push(self, entry: Entry) -> bool:
        """Add an action to the queue. Return False if `MAX_QUEUED` actions wait already."""
        if len(self._order) >= MAX_QUEUED:
            return False
        arrival = self._arrivals
        self._arrivals += 1
        self._entries[arrival] = entry
        self._count(entry.action, 1)
        insort(self._order, (entry.earliest, arrival))
        if entry.latest < FOREVER:
            heappush(self._expiries, (entry.latest, arrival))
            # remove actions that no longer wait from the heap
            if len(self._expiries) > 2 * len(self._order) + 64:
                self._expiries = [expiry for expiry in self._expiries if expiry[1] in self._entries]
                heapify(self._expiries)
        return True

    def take_late(self, now: Nanos) -> list[Entry]:
        """Remove and return the actions whose ``latest`` has passed, in order of ``latest``."""
        late = []
        while self._expiries and self._expiries[0][0] < now:
            _, arrival = heappop(self._expiries)
            if arrival in self._entries:
                late.append(self._pop(arrival))
        return late

    def take_due(self, now: Nanos, blocked: Callable[[Entry], bool]) -> Entry | None:
        """Remove and return the next action that may start now.

        Return None if no action may start now, for example because an action is running.
        """
        if self.running is not None:
            return None
        for earliest, arrival in self._order:
            if earliest > now:
                return None
            if not blocked(self._entries[arrival]):
                return self._pop(arrival)
            if not self._overtaking:
                return None
        return None

    def upcoming(self, blocked: Callable[[Entry], bool]) -> Entry | None:
        """Return the action that will start next, unless another event happens before.

        The action stays in the queue.
        """
        for _, arrival in self._order:
            entry = self._entries[arrival]
            if not blocked(entry):
                return entry
            if not self._overtaking:
                return None
        return None

    def will_load(self, model: str) -> bool:
        """Return whether a LoadWeights of the model waits."""
        return model in self._loads

    def will_evict(self, model: str, moment: Nanos) -> bool:
        """Return whether an EvictWeights of the model waits that is due by ``moment``."""
        if model not in self._evictions:
            return False
        actions = (entry.action for entry in self._entries.values() if entry.earliest <= moment)
        return any(isinstance(action, EvictWeights) and action.model == model for action in actions)

    def next_start(self, blocked: Callable[[Entry], bool]) -> Nanos | None:
        """Return when the next action can start, which may be in the past.

        None means that nothing can start before the next event.
        """
        if self.running is not None:
            return None
        entry = self.upcoming(blocked)
        return entry.earliest if entry is not None else None

    def next_expiry(self) -> Nanos | None:
        """Return the first moment at which a waiting action is late."""
        while self._expiries and self._expiries[0][1] not in self._entries:
            heappop(self._expiries)
        return self._expiries[0][0] + 1 if self._expiries else None

    def waiting(self) -> list[Entry]:
        """Return the waiting actions in the order in which they would start."""
        return [self._entries[arrival] for _, arrival in self._order]

    def clear(self) -> None:
        """Remove all waiting actions."""
        self._entries.clear()
        self._order.clear()
        self._expiries.clear()
        self._loads.clear()
        self._evictions.clear()

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        assert self._order == sorted((entry.earliest, arrival) for arrival, entry in self._entries.items())
        timed = {(entry.latest, arrival) for arrival, entry in self._entries.items() if entry.latest < FOREVER}
        assert timed <= set(self._expiries)
        assert len(self._order) <= MAX_QUEUED
        actions = [entry.action for entry in self._entries.values()]
        assert self._loads == Counter(action.model for action in actions if isinstance(action, LoadWeights))
        assert self._evictions == Counter(action.model for action in actions if isinstance(action, EvictWeights))

    def _pop(self, arrival: int) -> Entry:
        entry = self._entries.pop(arrival)
        del self._order[bisect_left(self._order, (entry.earliest, arrival))]
        self._count(entry.action, -1)
        return entry

    def _count(self, action: Action, change: int) -> None:
        if isinstance(action, LoadWeights | EvictWeights):
            counts = self._loads if isinstance(action, LoadWeights) else self._evictions
            counts[action.model] += change
            if not counts[action.model]:
                del counts[action.model]
