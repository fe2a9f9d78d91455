"""Measures the recent demand for each model, in requests per second by SLO.

`clockwork sim --from-state` uses the demand. Counting takes less than a microsecond per request. The memory is limited
even if every request has a different SLO. There are `MAX_SLOTS` slots of time, and each slot has at most `MAX_SLOS`
SLOs for each served model.
"""

from collections import deque
from typing import Final

from clockwork.messages.counts import ModelDemand
from clockwork.units import SECOND, Nanos

SLOT: Final[Nanos] = 5 * SECOND
MAX_SLOTS: Final = 12
"""Number of slots of time. Together, the slots cover the last minute in which requests arrived."""

MAX_SLOS: Final = 8
"""Limit of the number of different SLOs of one model. Above this limit, a request counts under the nearest counted SLO.
"""

MIN_WINDOW: Final[Nanos] = 1 * SECOND
"""Shortest time over which a rate is computed."""


class _Slot:
    """Counts of requests that arrived from ``first`` to ``last``, by model and SLO."""

    __slots__ = ("counts", "end", "first", "last")

    def __init__(self, now: Nanos) -> None:
        self.first = self.last = now
        self.end = now + SLOT
        self.counts: dict[str, dict[Nanos, int]] = {}


class DemandMeter:
    """Counts the requests for served models, including refused requests."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        """Start with no counts."""
        self._slots: deque[_Slot] = deque(maxlen=MAX_SLOTS)

    def add(self, model: str, slo: Nanos, now: Nanos, count: int = 1) -> None:
        """Count requests that arrived at ``now``. An SLO of 0 means that the SLO is unknown."""
        slots = self._slots
        if not slots or now >= slots[-1].end:
            slots.append(_Slot(now))
        slot = slots[-1]
        if now > slot.last:
            slot.last = now
        by_slo = slot.counts.get(model)
        if by_slo is None:
            by_slo = slot.counts[model] = {}
        _count(by_slo, slo, count)

    def forget(self, model: str) -> None:
        """Forget a model that was removed."""
        for slot in self._slots:
            slot.counts.pop(model, None)

    def of(self, model: str) -> tuple[ModelDemand, ...]:
        """Return the demand for a model by SLO, during the minute before the server's newest request.

        The rate is the average since the first request in this minute, so that a short burst is not averaged with idle
        time.
        """
        if not self._slots:
            return ()
        newest = self._slots[-1].last
        recent = [slot for slot in self._slots if slot.first > newest - SLOT * MAX_SLOTS]
        seconds = max(MIN_WINDOW, newest - recent[0].first) / SECOND
        total: dict[Nanos, int] = {}
        for slot in recent:
            for slo, count in slot.counts.get(model, {}).items():
                _count(total, slo, count)
        return tuple(ModelDemand(slo, count / seconds) for slo, count in sorted(total.items()))


def _count(by_slo: dict[Nanos, int], slo: Nanos, count: int) -> None:
    known = by_slo.get(slo)
    if known is None and len(by_slo) >= MAX_SLOS:
        slo = min(by_slo, key=lambda other: abs(other - slo))
        known = by_slo[slo]
    by_slo[slo] = count if known is None else known + count
