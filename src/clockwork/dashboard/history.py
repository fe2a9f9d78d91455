"""The requests of all models in the last 5 minutes, as a series of points.

A point covers 2 s. For the time before the first viewer came, the points cover 30 s, because the controller keeps
older requests only in longer periods. A point is made once, when its period has ended, so its cost does not depend on
the number of viewers or of snapshots.
"""

from collections import deque
from typing import Final

from msgspec import Struct

from clockwork.controller.description import Description
from clockwork.controller.recent import LONG_PERIOD, SHORT_PERIOD, Period
from clockwork.dashboard.units import ms
from clockwork.steps import Steps
from clockwork.units import SECOND, Nanos

LENGTH: Final[Nanos] = 300 * SECOND
"""Length of the history."""

SHORTS: Final = 5
"""Number of complete short periods that the controller keeps."""

MODELS_PER_STEP: Final = 10
"""Number of models that are read in one step."""


class Point(Struct, frozen=True):
    """The requests of all models that were answered in one period. Times are in milliseconds.

    - ``end``: end of the period, on the controller's clock
    - ``width``: length of the period
    - ``in_time``, ``late``, ``refused``, ``failed``, ``broken``: numbers of requests, as in `RecentCounts`
    - ``p50``, ``p99``: percentiles of the latencies; 0 if there were none
    - ``min_slo``, ``max_slo``: the shortest and the longest SLO; 0 if no SLO is known
    - ``reasons``: numbers of refused requests by the value of their `RefusalReason`
    """

    end: float
    width: float
    in_time: int
    late: int
    refused: int
    failed: int
    broken: int
    p50: float
    p99: float
    min_slo: float
    max_slo: float
    reasons: dict[str, int]


class History:
    """The points of the last 5 minutes, oldest first."""

    def __init__(self) -> None:
        """Start without points."""
        self._points: deque[Point] = deque()
        self._next: int | None = None  #: number of the next short period that gets a point

    @property
    def points(self) -> list[Point]:
        """All points."""
        return list(self._points)

    def update(self, server: Description) -> Steps[list[Point]]:
        """Add the points of the periods that have ended, and return them."""
        current = server.now // SHORT_PERIOD
        if self._next is None:
            first = current - SHORTS
            numbers = _numbers(server.now - LENGTH, first * SHORT_PERIOD, LONG_PERIOD)
            added = yield from _points(server, LONG_PERIOD, numbers)
            added += yield from _points(server, SHORT_PERIOD, range(first, current))
        elif self._next == current:
            return []
        else:  # the controller keeps only the last short periods
            added = yield from _points(server, SHORT_PERIOD, range(max(self._next, current - SHORTS), current))
        self._next = current
        self._points.extend(added)
        oldest = ms(server.now - LENGTH)
        while self._points and self._points[0].end < oldest:
            self._points.popleft()
        return added


def _numbers(begin: Nanos, end: Nanos, width: Nanos) -> range:
    """Return the numbers of the periods that lie between two times."""
    return range(max(0, -(-begin // width)), end // width)


def _points(server: Description, width: Nanos, numbers: range) -> Steps[list[Point]]:
    """Return one point for each period."""
    periods = {number: Period(number) for number in numbers}
    for count, (model, _) in enumerate(server.served()):
        for period in server.counts_of(model).recent.periods(width):
            if (total := periods.get(period.number)) is not None:
                total.add(period)
        if count % MODELS_PER_STEP == MODELS_PER_STEP - 1:
            yield
    return [_point(period, width) for period in periods.values()]


def _point(period: Period, width: Nanos) -> Point:
    in_time, late, refused, failed, _ = period.counts
    return Point(
        end=ms((period.number + 1) * width),
        width=ms(width),
        in_time=in_time,
        late=late,
        refused=refused,
        failed=failed,
        broken=period.broken,
        p50=ms(period.latencies.percentile(50) or 0),
        p99=ms(period.latencies.percentile(99) or 0),
        min_slo=ms(period.min_slo) if period.max_slo else 0.0,
        max_slo=ms(period.max_slo),
        reasons=period.reasons or {},
    )
