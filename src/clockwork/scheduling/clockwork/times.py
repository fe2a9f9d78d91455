"""How long one device takes for batches: estimates that agree with each other among the batch sizes of a model.

Theory of operation. Each number of rows of a model has an estimate of its own (`scheduling.estimates`), and only what
is executed is measured. Left alone, such estimates contradict each other: after a device was slow for a while, the
estimate of one row may be ten times that of two rows, which nobody tried meanwhile. A batch that is planned for two
rows, and sent with one, would then need more time than was reserved for it, and a promise would be broken without
anything having gone wrong. So two rules hold in the times given here:

1. Fewer rows take no longer than more rows whose measurement is the more recent one.
2. More rows take at least as long as fewer rows. What contradicts that is raised, not lowered: a doubt costs a refusal.

Time alone lowers a time given here (estimates relax) and never raises it.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from clockwork.scheduling.estimates import Pace, SlidingEstimate
from clockwork.scheduling.shapes import ShapeKey
from clockwork.state import ModelState
from clockwork.units import MILLISECOND, Nanos

MAX_TABLES: Final = 4096
"""Shapes chosen by clients whose measurements are kept for a device; the least recently used are measured anew.
Models that leave no choice of shapes are always kept: clients cannot make more of them."""

MAX_AGE: Final[Nanos] = 10 * MILLISECOND
"""Times are computed again after this long, or at the next measurement: estimates relax over seconds."""


class _Table:
    """The estimates of one model and shape by rows, and the times made of them."""

    __slots__ = ("estimates", "made_for", "rows", "times", "until")

    def __init__(self) -> None:
        self.estimates: dict[int, SlidingEstimate] = {}
        self.rows: list[int] = []  #: the keys of `estimates`, ascending
        self.times: dict[int, Nanos] = {}
        self.made_for = -1  #: the number of measurements that `times` were made after; -1: there are none
        self.until: Nanos = 0


class InferTimes:
    """The times of Infers on one device of a kind, by content, shape and rows."""

    def __init__(self, kind: str, window: int, max_tables: int = MAX_TABLES) -> None:
        """Nothing is measured: the profiles of models of ``kind`` count. ``window``: measurements of an estimate."""
        self._max_tables = max_tables
        self._kind = kind
        self._window = window
        self._pace = Pace()
        self._tables: dict[str, _Table] = {}  #: by content
        self._shaped: dict[tuple[str, ShapeKey], _Table] = {}  #: the least recently used first
        self._measured = 0  #: measurements so far

    def by_size(self, now: Nanos, model: ModelState, key: ShapeKey) -> Mapping[int, Nanos]:
        """The estimates of one Infer of each batch size of the profile, and of other rows that were measured."""
        return self._table(now, model, key).times

    def of(self, now: Nanos, model: ModelState, rows: int, key: ShapeKey) -> Nanos:
        """The estimate of one Infer of ``rows`` rows."""
        table = self._table(now, model, key)
        time = table.times.get(rows)
        return self._between(table, model, rows) if time is None else time

    def add(self, now: Nanos, model: ModelState, rows: int, key: ShapeKey, measured: Nanos) -> None:
        """An Infer of ``rows`` rows took ``measured``."""
        table = self._find(model, key)
        estimate = table.estimates.get(rows)
        if estimate is None:
            estimate = self._estimate(table, model, rows)
            table.rows = sorted(table.estimates)
        estimate.add(measured, now)
        self._measured += 1

    def _table(self, now: Nanos, model: ModelState, key: ShapeKey) -> _Table:
        table = self._find(model, key)
        if table.made_for != self._measured or now >= table.until:
            self._compute(now, table)
        return table

    @property
    def shapes(self) -> int:
        """Shapes chosen by clients whose measurements are kept."""
        return len(self._shaped)

    def _find(self, model: ModelState, key: ShapeKey) -> _Table:
        digest = model.info.digest
        if not key:
            table = self._tables.get(digest)
            if table is None:
                table = self._tables[digest] = self._make(model)
            return table
        table = self._shaped.pop((digest, key), None)
        if table is None:
            table = self._make(model)
            if len(self._shaped) >= self._max_tables:
                del self._shaped[next(iter(self._shaped))]
        self._shaped[digest, key] = table
        return table

    def _make(self, model: ModelState) -> _Table:
        table = _Table()
        for size in model.profiles[self._kind].batch_sizes:
            self._estimate(table, model, size)
        table.rows = sorted(table.estimates)
        return table

    def _estimate(self, table: _Table, model: ModelState, rows: int) -> SlidingEstimate:
        seed = model.infer_estimate(rows, self._kind)
        made = table.estimates[rows] = SlidingEstimate(seed, self._window, self._pace)
        return made

    def _compute(self, now: Nanos, table: _Table) -> None:
        """Make the times from the estimates, by the rules of the module."""
        estimates, times = table.estimates, table.times
        bounds: list[tuple[Nanos, Nanos]] = []  #: (when measured, time) of more rows: later measured, longer time
        for rows in reversed(table.rows):
            estimate = estimates[rows]
            time, at = estimate.at(now), estimate.measured_at
            for later, bound in bounds:
                if later > at and bound < time:
                    time = bound
            times[rows] = time
            if at:
                bounds.append((at, time))
        least = 0
        for rows in table.rows:
            least = times[rows] = max(least, times[rows])
        table.made_for, table.until = self._measured, now + MAX_AGE

    def _between(self, table: _Table, model: ModelState, rows: int) -> Nanos:
        """Rows that were never measured take as long as the next number that was; beyond the largest, in proportion."""
        place = bisect_left(table.rows, rows)
        if place < len(table.rows):
            return table.times[table.rows[place]]
        return max(table.times[table.rows[-1]], model.infer_estimate(rows, self._kind))
