"""Counts the recent outcomes of one model's requests, over the last 10 s and the last 5 min.

Each window is a ring of buckets. A bucket covers a period of fixed length, and counts the requests that were answered
in this period. The period of the newest bucket has not ended yet, so a window has one more bucket than its length
requires. A model with requests in every bucket takes about 20 kB. A model without requests takes no memory. Counting a
request takes about a microsecond.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from clockwork.histogram import Histogram, add_to_both
from clockwork.messages.counts import RecentCounts
from clockwork.messages.explanation import CANCELLED, FAILED, IN_TIME, LATE, REFUSED, outcome_of
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.units import FOREVER, SECOND, Nanos

LATENCY_WIDTH: Final = 10
"""Width of the buckets of latencies in per cent."""

MIN_WINDOW: Final[Nanos] = 1 * SECOND
"""Shortest time over which a rate is computed."""

SHORT_PERIOD: Final[Nanos] = 2 * SECOND
"""Length of a bucket of the short window."""

LONG_PERIOD: Final[Nanos] = 30 * SECOND
"""Length of a bucket of the long window."""

_IN_TIME, _LATE, _REFUSED, _FAILED, _CANCELLED = range(5)
_ORDER: Final = (IN_TIME, LATE, REFUSED, FAILED, CANCELLED)
_KINDS: Final = {int(status): _ORDER.index(outcome_of(status)) for status in Status}


class Period:
    """The requests that were answered in one period. ``number`` is the number of the period.

    ``counts`` contains the numbers of requests in time, late, refused, failed and cancelled. ``broken`` counts the
    broken promises. ``reasons`` contains the numbers of refused requests by reason, or is None if there are none.
    """

    __slots__ = ("broken", "counts", "latencies", "max_slo", "min_slo", "number", "reasons")

    def __init__(self, number: int) -> None:
        """Start without requests."""
        self.number = number
        self.counts = [0, 0, 0, 0, 0]
        self.broken = 0
        self.min_slo: Nanos = FOREVER  #: shortest SLO; FOREVER if no SLO is known
        self.max_slo: Nanos = 0
        self.latencies = Histogram(LATENCY_WIDTH)
        self.reasons: dict[str, int] | None = None

    def refused(self, reason: str, count: int) -> None:
        """Count the reason of refused requests."""
        if self.reasons is None:
            self.reasons = {}
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def add(self, other: "Period") -> None:
        """Add the requests of another model."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.broken += other.broken
        self.min_slo = min(self.min_slo, other.min_slo)
        self.max_slo = max(self.max_slo, other.max_slo)
        self.latencies.merge(other.latencies)
        for reason, count in (other.reasons or {}).items():
            self.refused(reason, count)


class _Ring:
    """The buckets of one window, with the oldest first. Periods without requests have no bucket."""

    __slots__ = ("_buckets", "_size", "width")

    def __init__(self, width: Nanos, size: int) -> None:
        """``width`` is the length of a period, and ``size`` is the number of complete periods in the window."""
        self.width = width
        self._size = size
        self._buckets: deque[Period] = deque(maxlen=size + 1)

    def __iter__(self) -> Iterator[Period]:
        return iter(self._buckets)

    def at(self, now: Nanos) -> Period:
        """Return the bucket of the current period. ``now`` must not decrease."""
        number = now // self.width
        buckets = self._buckets
        if not buckets or buckets[-1].number < number:
            buckets.append(Period(number))
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
        self._short = _Ring(SHORT_PERIOD, 5)
        self._long = _Ring(LONG_PERIOD, 10)
        self._newest: tuple[Period, ...] = ()  #: the current buckets of both windows
        self._until: Nanos = 0  #: end of the current short period

    def answered(
        self,
        now: Nanos,
        status: int,
        total: Nanos,
        slo: Nanos = 0,
        count: int = 1,
        broken: bool = False,
        reason: RefusalReason = RefusalReason.OTHER,
    ) -> None:
        """Add ``count`` requests that are answered with ``status``. ``total`` is the time since their arrival.

        An SLO of 0 means that the SLO is unknown. ``broken`` means that the server breaks its promise to answer these
        requests in time. ``reason`` is used only if ``status`` means a refusal.
        """
        kind = _KINDS.get(status, _FAILED)
        if now >= self._until:  # the end of a long period is also the end of a short period
            self._newest = self._short.at(now), self._long.at(now)
            self._until = now - now % self._short.width + self._short.width
        for bucket in self._newest:
            bucket.counts[kind] += count
            if broken:
                bucket.broken += 1
            if kind == _REFUSED:
                bucket.refused(reason.value, count)
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

    def periods(self, width: Nanos) -> Sequence[Period]:
        """Return the periods of one window, oldest first. The caller must not change them.

        ``width`` is `SHORT_PERIOD` or `LONG_PERIOD`. Periods without requests are missing.
        """
        return tuple(self._short if width == SHORT_PERIOD else self._long)
