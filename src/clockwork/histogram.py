"""Durations counted in buckets that grow by one per cent, from a microsecond on.

Memory is flat, however much is counted: from a microsecond to a second there are 1,389 buckets of eight bytes.
"""

from array import array
from collections.abc import Iterator, Sequence
from math import exp, log
from typing import Final

from clockwork.units import MICROSECOND, Nanos

_STEP: Final = log(1.01)


class Histogram:
    """Counts durations. ``width`` buckets are kept as one: 1 keeps them to one per cent, 10 to ten."""

    __slots__ = ("buckets", "longest", "total", "width")

    def __init__(self, width: int = 1) -> None:
        """Empty."""
        self.buckets = array("Q")  #: durations in each bucket, up to the last that has some
        self.width = width
        self.longest: Nanos = 0
        self.total: Nanos = 0  #: the sum of all

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self.buckets)

    def add(self, value: Nanos) -> None:
        """One more."""
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
        """Count what another of the same width has counted as well."""
        assert other.width == self.width
        self.grow(len(other.buckets))
        for bucket, count in enumerate(other.buckets):
            self.buckets[bucket] += count
        self.longest = max(self.longest, other.longest)
        self.total += other.total

    def up_to(self, bounds: Sequence[Nanos]) -> list[int]:
        """How many were no longer than each of ``bounds``, which rise; as exactly as the buckets are."""
        made, seen, first = [], 0, 0
        for bound in bounds:
            after = _bucket(bound) // self.width + 1
            seen += sum(self.buckets[first:after])
            first = after
            made.append(seen)
        return made

    def percentile(self, percent: float) -> Nanos | None:
        """The upper end of the bucket that the percentile is in; None if there is nothing."""
        rank = self.count * percent / 100
        for end, seen in self._sums():
            if seen >= rank:
                return min(self.longest, round(end * MICROSECOND))
        return None

    def steps(self) -> list[tuple[float, float]]:
        """The distribution: (milliseconds, share of all that took no longer)."""
        count = self.count
        return [(end / 1000, seen / count) for end, seen in self._sums()]

    def _sums(self) -> Iterator[tuple[float, int]]:
        """Of each bucket that is not empty: its end in microseconds, and how many are in it and those before it."""
        seen = 0
        for bucket, count in enumerate(self.buckets):
            if count:
                seen += count
                yield exp((bucket + 1) * self.width * _STEP), seen

    def grow(self, size: int) -> None:
        """Have so many buckets, at least."""
        missing = size - len(self.buckets)
        if missing > 0:
            self.buckets.frombytes(bytes(missing * self.buckets.itemsize))


def add_to_both(value: Nanos, one: Histogram, other: Histogram) -> None:
    """Like `Histogram.add` of each, in less time: every action of a server is counted so."""
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
    """The number of a duration's bucket of one per cent; up to a microsecond all are in the first."""
    return int(log(value / MICROSECOND) / _STEP) if value > MICROSECOND else 0
