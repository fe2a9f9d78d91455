"""Counts the recent outcomes of one model's requests, over the last 10 s and the last 5 min.

Each window is a ring of buckets. A bucket covers a period of fixed length, and counts the requests that were answered
in this period. The period of the newest bucket has not ended yet, so a window has one more bucket than its length
requires. A model with requests in every bucket takes about 20 kB. A model without requests takes no memory. Counting a
request takes about a microsecond.
"""

from collections import deque
from typing import Final

from clockwork.histogram import Histogram, add_to_both
from clockwork.messages.counts import RecentCounts
from clockwork.messages.explanation import CANCELLED, FAILED, IN_TIME, LATE, REFUSED, outcome_of
from clockwork.messages.status import Status
from clockwork.units import FOREVER, SECOND, Nanos

LATENCY_WIDTH: Final = 10
"""Width of the buckets of latencies in per cent."""

MIN_WINDOW: Final[Nanos] = 1 * SECOND
"""Shortest time over which a rate is computed."""

_IN_TIME, _LATE, _REFUSED, _FAILED, _CANCELLED = range(5)
_ORDER: Final = (IN_TIME, LATE, REFUSED, FAILED, CANCELLED)
_KINDS: Final = {int(status): _ORDER.index(outcome_of(status)) for status in Status}


class _Bucket:
    """The requests that were answered in one period. ``number`` is the number of the period."""

    __slots__ = ("broken", "counts", "latencies", "max_slo", "min_slo", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts = [0, 0, 0, 0, 0]
        self.broken = 0
        self.min_slo: Nanos = FOREVER  #: shortest SLO; FOREVER if no SLO is known
        self.max_slo: Nanos = 0
        self.latencies = Histogram(LATENCY_WIDTH)


class _Ring:
    """The buckets of one window, with the oldest first. Periods without requests have no bucket."""

    __slots__ = ("_buckets", "_size", "width")

    def __init__(self, width: Nanos, size: int) -> None:
        """``width`` is the length of a period, and ``size`` is the number of complete periods in the window."""
        self.width = width
        self._size = size
        self._buckets: deque[_Bucket] = deque(maxlen=size + 1)

    def at(self, now: Nanos) -> _Bucket:
        """Return the bucket of the current period. ``now`` must not decrease."""
        number = now // self.width
        buckets = self._buckets
        if not buckets or buckets[-1].number < number:
            buckets.append(_Bucket(number))
        return buckets[-1]

    def summary(self, now: Nanos, serving: Nanos) -> RecentCounts:
        """Return the counts of the window. ``serving`` is the time since serving began."""
        first = now // self.width - self._size
        buckets = [bucket for bucket in self._buckets if bucket.number >= first]
        window = max(MIN_WINDOW, min(now - first * self.width, serving))
        latencies = Histogram(LATENCY_WIDTH)
        for bucket in buckets:
            latencies.merge(bucket.latencies)
        in_time, late, refused, failed, cancelled = (
            sum(bucket.counts[kind] for bucket in buckets) for kind in (_IN_TIME, _LATE, _REFUSED, _FAILED, _CANCELLED)
        )
        max_slo = max((bucket.max_slo for bucket in buckets), default=0)
        return RecentCounts(
            window=window,
            per_second=(in_time + late + refused + failed + cancelled) * SECOND / window,
            in_time=in_time,
            late=late,
            refused=refused,
            failed=failed,
            cancelled=cancelled,
            broken_promises=sum(bucket.broken for bucket in buckets),
            p50=latencies.percentile(50) or 0,
            p99=latencies.percentile(99) or 0,
            min_slo=min(max_slo, *(bucket.min_slo for bucket in buckets)) if max_slo else 0,
            max_slo=max_slo,
        )


class Recent:
    """The recent requests of one model."""

    __slots__ = ("_long", "_newest", "_short", "_until")

    def __init__(self) -> None:
        """Start without requests."""
        self._short = _Ring(2 * SECOND, 5)
        self._long = _Ring(30 * SECOND, 10)
        self._newest: tuple[_Bucket, ...] = ()  #: the current buckets of both windows
        self._until: Nanos = 0  #: end of the current short period

    def answered(
        self, now: Nanos, status: int, total: Nanos, slo: Nanos = 0, count: int = 1, broken: bool = False
    ) -> None:
        """Add ``count`` requests that are answered with ``status``. ``total`` is the time since their arrival.

        An SLO of 0 means that the SLO is unknown. ``broken`` means that the server breaks its promise to answer these
        requests in time.
        """
        kind = _KINDS.get(status, _FAILED)
        if now >= self._until:  # the end of a long period is also the end of a short period
            self._newest = self._short.at(now), self._long.at(now)
            self._until = now - now % self._short.width + self._short.width
        for bucket in self._newest:
            bucket.counts[kind] += count
            if broken:
                bucket.broken += 1
            if slo > bucket.max_slo:
                bucket.max_slo = slo
            if slo < bucket.min_slo and slo:
                bucket.min_slo = slo
        if kind <= _LATE:
            short, long = self._newest
            add_to_both(total, short.latencies, long.latencies)

    def last_10_s(self, now: Nanos, serving: Nanos) -> RecentCounts:
        """Return the counts of the last 10 to 12 s. ``serving`` is the time since serving began."""
        return self._short.summary(now, serving)

    def last_5_min(self, now: Nanos, serving: Nanos) -> RecentCounts:
        """Return the counts of the last 300 to 330 s. ``serving`` is the time since serving began."""
        return self._long.summary(now, serving)
