"""Estimates the durations of Infers on one device.

The estimates for different batch sizes of a model never contradict each other.

Theory of operation. For each model, every number of rows has its own estimate (`scheduling.estimates`), and only
executed batches are measured. Without further rules, the estimates would contradict each other. For example, suppose
that a slow device executed only single rows for a while. The estimate of one row may then be ten times the estimate of
two rows. A batch that is planned with two rows and sent with one row would then need more time than was reserved. A
promise would be broken although no action was late. So this module computes times from estimates according to two
rules:

1. A batch takes at most as long as any larger batch that was measured more recently.
2. A batch takes at least as long as any smaller batch. If an estimate breaks this rule, the estimate of the larger
   batch is raised, because a wrong refusal costs less than a broken promise.

Estimates relax: without new measurements, they become shorter over time, but never longer.

Input shapes. A profile has times for one shape of each input. A request with a larger shape takes longer, by an unknown
factor. The first estimate for such a request is a guess: the profile's time, multiplied by the ratio of the numbers of
elements and by `UNKNOWN_MARGIN`. The first measurement of the shape replaces this guess for all numbers of rows. The
guess may be so long that every request is refused and the shape is never measured. So a guess relaxes like an estimate.
After `FORGOTTEN`, the margin is dropped. After twice that time, the profile's times are used.

Some models were not measured at all. For every shape of such a model, the first estimate is the assumed time in the
profile, without a margin. The first measurement replaces this guess, too.
"""

from bisect import bisect_left
from collections.abc import Mapping
from math import prod
from typing import Final

from clockwork.scheduling.estimates import FORGOTTEN, Pace, SlidingEstimate
from clockwork.scheduling.shapes import ShapeKey, is_alone
from clockwork.state import ModelState
from clockwork.units import MILLISECOND, Nanos

MAX_TABLES: Final = 4096
"""Limit of the input shapes whose measurements are stored for a device. The least recently used shapes are forgotten.

Models with fixed shapes do not count towards this limit, because each of them has only one shape.
"""

MAX_AGE: Final[Nanos] = 10 * MILLISECOND
"""Age at which computed times are computed again, because estimates relax. The times are also computed again after each
measurement.
"""


UNKNOWN_MARGIN: Final = 2
"""Factor for the estimate of a shape that was not measured. Work may grow faster than the number of elements."""


class _Table:
    """The estimates of one model and shape by number of rows, and the times that were computed from them."""

    __slots__ = ("computed_for", "estimates", "guessed_at", "rows", "scale", "times", "until")

    def __init__(self, scale: float, guessed_at: Nanos | None) -> None:
        self.scale = scale  #: ratio of the first estimates to the profile's times
        self.guessed_at = guessed_at  #: time of the guess of the first estimates; None if the estimates are not guessed
        self.estimates: dict[int, SlidingEstimate] = {}
        self.rows: list[int] = []  #: the keys of `estimates` in ascending order
        self.times: dict[int, Nanos] = {}
        self.computed_for = -1  #: number of measurements when `times` were computed; -1: they were never computed
        self.until: Nanos = 0


class InferTimes:
    """The durations of Infers on one device, by content, shape and rows."""

    def __init__(self, kind: str, window: int, max_tables: int = MAX_TABLES) -> None:
        """Start from the profiles for ``kind``.

        ``window`` is the number of measurements from which an estimate is computed.
        """
        self._max_tables = max_tables
        self._kind = kind
        self._window = window
        self._pace = Pace()
        self._tables: dict[str, _Table] = {}  #: tables of fixed shapes, by content

        #: tables of other shapes by content and shape, with the least recently used first
        self._shaped: dict[tuple[str, ShapeKey], _Table] = {}
        self._measured = 0  #: number of measurements so far
        self._sizes: dict[str, tuple[int, ...]] = {}  #: batch sizes by content
        self._worthwhile: dict[str, int] = {}

    def sizes(self, model: ModelState) -> tuple[int, ...]:
        """Return the batch sizes for which a plan may reserve time, in ascending order."""
        sizes = self._sizes.get(model.info.digest)
        if sizes is None:
            largest = model.max_rows
            sizes = tuple(size for size in model.profiles[self._kind].batch_sizes if size <= largest)
            self._sizes[model.info.digest] = sizes
            self._add_sizes(model, sizes)
        return sizes

    def _add_sizes(self, model: ModelState, sizes: tuple[int, ...]) -> None:
        """Add batch sizes to the tables of a content.

        Another load of the content, which is not fully measured, may have created the tables.
        """
        digest = model.info.digest
        tables = [table for (content, _), table in self._shaped.items() if content == digest]
        if digest in self._tables:
            tables.append(self._tables[digest])
        for table in tables:
            for size in sizes:
                if size not in table.estimates:
                    self._estimate(table, model, size)
            table.rows = sorted(table.estimates)
            table.computed_for = -1

    def worthwhile_size(self, model: ModelState, key: ShapeKey) -> int:
        """Return the largest batch size that takes about as little time per row as smaller batch sizes."""
        if model.unbatched or is_alone(model, key):
            return 1
        size = self._worthwhile.get(model.info.digest)
        if size is None:
            size = self._worthwhile[model.info.digest] = model.profiles[self._kind].worthwhile_batch_size
        return size

    def by_size(self, now: Nanos, model: ModelState, key: ShapeKey) -> Mapping[int, Nanos]:
        """Return the time of an Infer for each number of rows that is measured or is a batch size of the profile."""
        self.sizes(model)  # the table has these sizes from now on
        return self._table(now, model, key).times

    def of(self, now: Nanos, model: ModelState, rows: int, key: ShapeKey) -> Nanos:
        """Return the time of an Infer of ``rows`` rows."""
        table = self._table(now, model, key)
        time = table.times.get(rows)
        return self._between(table, model, rows) if time is None else time

    def add(self, now: Nanos, model: ModelState, rows: int, key: ShapeKey, measured: Nanos) -> None:
        """Add the measured time of an Infer of ``rows`` rows."""
        table = self._find(now, model, key)
        if table.guessed_at is not None:
            least = 0.0 if model.profiles[self._kind].unmeasured else 1.0
            table.guessed_at, table.scale = None, max(least, measured / max(1, model.infer_estimate(rows, self._kind)))
            self._fill(table, model)
        estimate = table.estimates.get(rows)
        if estimate is None:
            estimate = self._estimate(table, model, rows)
            table.rows = sorted(table.estimates)
        estimate.add(measured, now)
        self._measured += 1

    def forget(self, digest: str) -> None:
        """Forget all measurements of a model content."""
        self._tables.pop(digest, None)
        self._sizes.pop(digest, None)
        self._worthwhile.pop(digest, None)
        for shaped in [shaped for shaped in self._shaped if shaped[0] == digest]:
            del self._shaped[shaped]

    def _table(self, now: Nanos, model: ModelState, key: ShapeKey) -> _Table:
        table = self._find(now, model, key)
        if table.computed_for != self._measured or now >= table.until:
            self._compute(now, table)
        return table

    @property
    def shapes(self) -> int:
        """Number of input shapes whose measurements are stored. Models with fixed shapes do not count."""
        return len(self._shaped)

    def _find(self, now: Nanos, model: ModelState, key: ShapeKey) -> _Table:
        digest = model.info.digest
        if not key:
            table = self._tables.get(digest)
            if table is None:
                table = self._tables[digest] = self._make(now, model, 1.0)
            return table
        table = self._shaped.pop((digest, key), None)
        if table is None:
            table = self._make(now, model, self._scale(model, key))
            if len(self._shaped) >= self._max_tables:
                del self._shaped[next(iter(self._shaped))]
        self._shaped[digest, key] = table
        return table

    def _scale(self, model: ModelState, key: ShapeKey) -> float:
        """Return the number of elements of a shape, divided by that of the profile's shape.

        The result is 1.0 if the shape is not larger, or if the profile's shape is unknown.
        """
        measured = sum([prod(shape) for shape in model.profiles[self._kind].input_shapes])
        return max(1.0, sum([prod(shape) for _, shape in key]) / measured) if measured else 1.0

    def _make(self, now: Nanos, model: ModelState, scale: float) -> _Table:
        guessed = scale > 1.0 or bool(model.profiles[self._kind].unmeasured)
        table = _Table(scale, now if guessed else None)
        self._fill(table, model)
        return table

    def _fill(self, table: _Table, model: ModelState) -> None:
        """Start all estimates from the profile and the table's scale."""
        table.estimates = {}
        sizes = {*model.profiles[self._kind].batch_sizes, *self._sizes.get(model.info.digest, ())}
        for size in sorted(sizes):
            self._estimate(table, model, size)
        table.rows = sorted(table.estimates)

    def _estimate(self, table: _Table, model: ModelState, rows: int) -> SlidingEstimate:
        seed = round(model.infer_estimate(rows, self._kind) * table.scale)
        estimate = table.estimates[rows] = SlidingEstimate(seed, self._window, self._pace)
        return estimate

    def _compute(self, now: Nanos, table: _Table) -> None:
        """Compute the times from the estimates by the two rules in the module's docstring."""
        estimates, times = table.estimates, table.times
        bounds: list[tuple[Nanos, Nanos]] = []  #: (time of measurement, duration) of larger numbers of rows
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
        if table.guessed_at is not None and table.scale > 1.0:
            age = now - table.guessed_at
            factor = UNKNOWN_MARGIN if age <= FORGOTTEN else 1.0 if age <= 2 * FORGOTTEN else 1 / table.scale
            for rows in table.rows:
                times[rows] = round(times[rows] * factor)
        table.computed_for, table.until = self._measured, now + MAX_AGE

    def _between(self, table: _Table, model: ModelState, rows: int) -> Nanos:
        """Return the time for a number of rows that was not measured: the time of the next larger measured number.

        Above the largest measured number, the time grows in proportion to the number of rows.
        """
        place = bisect_left(table.rows, rows)
        if place < len(table.rows):
            return table.times[table.rows[place]]
        return max(table.times[table.rows[-1]], round(model.infer_estimate(rows, self._kind) * table.scale))
