"""Histograms of durations.

The first bucket ends at a microsecond, and the end of each further bucket is one per cent larger. The memory of a
histogram does not depend on the number of durations. From a microsecond to a second, there are 1,389 buckets of eight
bytes each.
"""

from array import array
from collections.abc import Iterator, Sequence
from math import exp, log
from typing import Final

from clockwork.units import MICROSECOND, Nanos

_STEP: Final = log(1.01)


class Histogram:
    """A histogram of durations.

    Each bucket of this histogram combines ``width`` of the buckets that the module describes. With a width of 1, the
    error is 1 per cent; with a width of 10, it is 10 per cent.
    """

    __slots__ = ("buckets", "longest", "total", "width")

    def __init__(self, width: int = 1) -> None:
        """Create an empty histogram."""
        self.buckets = array("Q")  #: number of durations in each bucket, up to the last non-empty bucket
        self.width = width
        self.longest: Nanos = 0
        self.total: Nanos = 0  #: sum of all durations

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets)

    def add(self, value: Nanos) -> None:
        """Count a duration."""
        bucket = _bucket(value) // self.width
        try:
            self.buckets[bucket] += 1
        except IndexError:
            self.grow(bucket + 1)
            self.buckets[bucket] += 1
        self.total += value
        if value > self.longest:
            self.longest = value

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram, which must have the same width."""
        assert other.width == self.width
        self.grow(len(other.buckets))
        for bucket, count in enumerate(other.buckets):
            self.buckets[bucket] += count
        self.longest = max(self.longest, other.longest)
        self.total += other.total

    def up_to(self, bounds: Sequence[Nanos]) -> list[int]:
        """Return the number of durations up to each bound. ``bounds`` must be in ascending order.

        The numbers are exact only if the bounds are the ends of buckets.
        """
        counts, seen, first = [], 0, 0
        for bound in bounds:
            after = _bucket(bound) // self.width + 1
            seen += sum(self.buckets[first:after])
            first = after
            counts.append(seen)
        return counts

    def percentile(self, percent: float) -> Nanos | None:
        """Return the upper end of the bucket that contains the percentile, or None if the histogram is empty."""
        rank = self.count * percent / 100
        for end, seen in self._sums():
            if seen >= rank:
                return min(self.longest, round(end * MICROSECOND))
        return None

    def steps(self) -> list[tuple[float, float]]:
        """Return the cumulative distribution as pairs: milliseconds, and the share of durations up to that time."""
        count = self.count
        return [(end / 1000, seen / count) for end, seen in self._sums()]

    def _sums(self) -> Iterator[tuple[float, int]]:
        """Yield the end of each non-empty bucket in microseconds, and the number of durations up to this end."""
        seen = 0
        for bucket, count in enumerate(self.buckets):
            if count:
                seen += count
                yield exp((bucket + 1) * self.width * _STEP), seen

    def grow(self, size: int) -> None:
        """Extend the buckets to at least ``size``."""
        missing = size - len(self.buckets)
        if missing > 0:
            self.buckets.frombytes(bytes(missing * self.buckets.itemsize))


def add_to_both(value: Nanos, one: Histogram, other: Histogram) -> None:
    """Add a duration to two histograms.

    This function is faster than two calls of ``add``, and runs for every action.
    """
    bucket = _bucket(value)
    here, there = bucket // one.width, bucket // other.width
    try:
        one.buckets[here] += 1
    except IndexError:
        one.grow(here + 1)
        one.buckets[here] += 1
    try:
        other.buckets[there] += 1
    except IndexError:
        other.grow(there + 1)
        other.buckets[there] += 1
    one.total += value
    other.total += value
    if value > one.longest:
        one.longest = value
    if value > other.longest:
        other.longest = value


def _bucket(value: Nanos) -> int:
    """Return the number of the bucket that contains a duration. Each bucket is one per cent wide.

    Bucket 0 contains all durations up to a microsecond.
    """
    return int(log(value / MICROSECOND) / _STEP) if value > MICROSECOND else 0
