"""One timed executor, as a decision: what starts next, and what can no longer start.

Rules of the file: an action does not start before ``earliest`` nor after ``latest``; a lane runs one at a time, in
order of ``earliest``, then of arrival. An action that is late costs itself only: it is out of the queue the nanosecond
after its ``latest``, whoever it waits behind.

Theory of operation. An action may be due and yet have to wait for something that its lane does not know of (weights on
their way); the core says which by ``blocked``. Where the lane allows *overtaking*, those behind it pass it meanwhile;
where order matters it holds them up.
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
"""Actions that wait in one lane. A controller schedules milliseconds ahead: this is orders of magnitude more."""


class Entry(Struct, eq=False):
    """An action in a lane, with what came with it. ``orphaned``: its controller is gone and wants no result."""

    action: Action
    earliest: Nanos
    latest: Nanos
    payloads: tuple[object, ...] = ()
    orphaned: bool = False


class Lane:
    """Actions that wait, and the one that runs."""

    def __init__(self, overtaking: bool) -> None:
        """``overtaking``: an action that is due may pass one that is blocked."""
        self.running: Entry | None = None
        self._overtaking = overtaking
        self._arrivals = 0
        self._entries: dict[int, Entry] = {}  #: those that wait, by arrival
        self._order: list[tuple[Nanos, int]] = []  #: (earliest, arrival) of all and only those, sorted
        self._expiries: list[tuple[Nanos, int]] = []  #: heap of (latest, arrival); also of some no longer waiting
        self._loads: Counter[str] = Counter()  #: model -> LoadWeights that wait
        self._evictions: Counter[str] = Counter()  #: model -> EvictWeights that wait

    def __len__(self) -> int:
        """How many wait."""
        return len(self._order)

    def push(self, entry: Entry) -> bool:
        """Let it wait for its turn; False, and nothing changes, if `MAX_QUEUED` wait already."""
        if len(self._order) >= MAX_QUEUED:
            return False
        arrival = self._arrivals
        self._arrivals += 1
        self._entries[arrival] = entry
        self._count(entry.action, 1)
        insort(self._order, (entry.earliest, arrival))
        if entry.latest < FOREVER:
            heappush(self._expiries, (entry.latest, arrival))
            if len(self._expiries) > 2 * len(self._order) + 64:  # bounds what those that started early leave behind
                self._expiries = [expiry for expiry in self._expiries if expiry[1] in self._entries]
                heapify(self._expiries)
        return True

    def take_late(self, now: Nanos) -> list[Entry]:
        """Those whose ``latest`` has passed, which no longer wait; in order of ``latest``."""
        late = []
        while self._expiries and self._expiries[0][0] < now:
            _, arrival = heappop(self._expiries)
            if arrival in self._entries:
                late.append(self._pop(arrival))
        return late

    def take_due(self, now: Nanos, blocked: Callable[[Entry], bool]) -> Entry | None:
        """The next that may start at ``now``, which no longer waits; None if there is none, or if one is running."""
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
        """The next that starts if nothing else happens; it stays in the queue."""
        for _, arrival in self._order:
            entry = self._entries[arrival]
            if not blocked(entry):
                return entry
            if not self._overtaking:
                return None
        return None

    def will_load(self, model: str) -> bool:
        """Whether a LoadWeights of ``model`` waits."""
        return model in self._loads

    def will_evict(self, model: str, moment: Nanos) -> bool:
        """Whether an EvictWeights of ``model`` waits that is due no later than ``moment``."""
        if model not in self._evictions:
            return False
        actions = (entry.action for entry in self._entries.values() if entry.earliest <= moment)
        return any(isinstance(action, EvictWeights) and action.model == model for action in actions)

    def next_start(self, blocked: Callable[[Entry], bool]) -> Nanos | None:
        """When something can start: a moment past if it can already, None if only an event can change it."""
        if self.running is not None:
            return None
        entry = self.upcoming(blocked)
        return entry.earliest if entry is not None else None

    def next_expiry(self) -> Nanos | None:
        """The first moment at which one of those that wait is late."""
        while self._expiries and self._expiries[0][1] not in self._entries:
            heappop(self._expiries)
        return self._expiries[0][0] + 1 if self._expiries else None

    def waiting(self) -> list[Entry]:
        """Those that wait, in order of their turn."""
        return [self._entries[arrival] for _, arrival in self._order]

    def clear(self) -> None:
        """Forget those that wait."""
        self._entries.clear()
        self._order.clear()
        self._expiries.clear()
        self._loads.clear()
        self._evictions.clear()

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and checkers."""
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
