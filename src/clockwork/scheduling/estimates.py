"""Estimates of durations: what was measured last, seeded by the profile.

The original takes the p99 of a sliding window of ten measurements, which is their maximum. That holds for ten in eleven
of the next, and one bad moment makes it useless for ten. Ours keeps the window, and takes from it what is left when the
largest is set aside; to the median it adds a *margin* that the device's own history sets, so that a stated share of
what it does (`WITHIN`) is within the estimate: each miss raises the margin, each hit lowers it a little (adaptive
conformal inference, Gibbs and Candes 2021). So one outlier costs a few per cent, and does not vanish either.

Two more things follow what happens to a device. If it turns slow (its clock is throttled, its core is shared) it is
slow for everything, while most models and batch sizes are not measured every second: when half of the last measurements
on it took far longer than usual, all its estimates grow. And an estimate that nobody has measured for a while
*relaxes*, first to the median, then to the seed: what is never tried because it is thought to take too long would never
be measured again.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.units import SECOND, Nanos

OUTLIER: Final = 3
"""Times the median: a window does not raise the estimate beyond."""

STALE: Final[Nanos] = 1 * SECOND
"""An estimate that was not measured for this long relaxes to the median of its window."""

FORGOTTEN: Final[Nanos] = 10 * SECOND
"""And after this long to the seed, if that is less."""

WITHIN: Final = 0.985
"""The share of what a device does that is to be within the estimate."""

MARGIN_STEP: Final = 0.03
"""What a miss adds to the margin, about, as a share of the median; after each miss as many hits as there should be take
it away again."""

MARGIN_MOST: Final = 0.5
"""More would promise too little; a device as unsteady as that misses more."""

SLOW: Final = 1.25
"""Times the usual: a device that takes so long for half of what it does is slow. Below that, windows and the margin
follow by themselves."""

COMPARED: Final = 10
"""Measurements on a device that are compared with the usual."""


class Pace:
    """How a device keeps time: slow by ``factor`` (1.0: as usual), and uneven by ``margin``."""

    __slots__ = ("_ratios", "factor", "margin", "since")

    def __init__(self) -> None:
        """As fast as ever, and even."""
        self.factor = 1.0
        self.since: Nanos = 0  #: when it turned slow
        self.margin = 0.0
        self._ratios: deque[float] = deque([1.0] * COMPARED, maxlen=COMPARED)

    def add(self, ratio: float, within: bool, now: Nanos = 0) -> None:
        """Something took ``ratio`` times the usual, and was within its estimate or not."""
        if not within:
            self.margin = min(MARGIN_MOST, self.margin + MARGIN_STEP * WITHIN)
        elif self.margin > 0.0:
            self.margin = max(0.0, self.margin - MARGIN_STEP * (1 - WITHIN))
        self._ratios.append(ratio)
        if ratio < SLOW and self.factor == 1.0:
            return
        median = sorted(self._ratios)[COMPARED // 2]  # five of ten: before the median of a window has moved
        if self.factor == 1.0:
            self.since = now
        self.factor = median if median > SLOW else 1.0


class SlidingEstimate:
    """How long one thing takes at most: with a `Pace`, as the module says; without, the largest of the window."""

    __slots__ = ("_at", "_last", "_median", "_pace", "_samples", "_usual", "_window", "seed")

    def __init__(self, seed: Nanos, window: int, pace: Pace | None = None) -> None:
        """``seed`` is the estimate as long as nothing was measured."""
        self.seed: Nanos = seed
        self._pace = pace
        self._samples: deque[Nanos] = deque((seed,), maxlen=window)
        self._median: Nanos = seed
        self._usual: Nanos = max(1, seed)  #: the median, as long as the device is not slow
        self._window: Nanos = seed  #: what the window alone says
        self._at: Nanos = 0
        self._last: Nanos = 0  #: the last measurement, if that was made since the device is slow; else 0

    @property
    def value(self) -> Nanos:
        """The estimate, however old it is."""
        pace = self._pace
        if pace is None:
            return self._window
        value = max(self._window, round(self._median * (1 + pace.margin)))
        if pace.factor == 1.0:
            return value
        # What was measured since knows better than what others took.
        return max(value, round(self._last * (1 + pace.margin) if self._last else self._usual * pace.factor))

    def add(self, measured: Nanos, now: Nanos = 0) -> None:
        """One more measurement, made at ``now``."""
        pace = self._pace
        if pace is not None:
            pace.add(measured / self._usual, measured <= self.value, now)
            self._last = measured if pace.factor > 1.0 else 0
        self._samples.append(measured)
        self._at = now
        ranked = sorted(self._samples)
        self._median = ranked[(len(ranked) - 1) // 2]
        highest = ranked[-2] if pace is not None and len(ranked) > 2 else ranked[-1]
        self._window = min(highest, OUTLIER * self._median)
        if pace is None or pace.factor == 1.0:
            self._usual = max(1, self._median)

    def at(self, now: Nanos) -> Nanos:
        """The estimate, with regard to how old it is."""
        value = self.value
        at, stale = self._at, STALE
        if self._pace is not None and self._pace.factor > 1.0:
            at, stale = max(at, self._pace.since), FORGOTTEN
        age = now - at
        if age <= stale or value <= self.seed:
            return value
        return self._median if age <= FORGOTTEN else min(self._median, self.seed)

    def measured_lately(self, now: Nanos) -> bool:
        """Whether there is a measurement that is not older than `STALE`."""
        return 0 < self._at >= now - STALE


MAX_ESTIMATES: Final = 4096
"""Estimates of one device for shapes that clients chose; about 1 kB each. The least recently used are forgotten."""


class Estimates:
    """Estimates by key, made when they are first needed."""

    def __init__(self, window: int, pace: Pace | None = None, most: int | None = None) -> None:
        """``window``: measurements that each estimate is made of; ``pace``: that of the device.

        ``most``: keys that are remembered, if clients choose them.
        """
        self._window = window
        self._pace = pace
        self._most = most
        self._by_key: dict[object, SlidingEstimate] = {}  #: least recently used first, if there is a limit

    @property
    def remembered(self) -> int:
        """Keys whose estimate is known."""
        return len(self._by_key)

    def of(self, key: object, seed: Callable[[], Nanos]) -> SlidingEstimate:
        """The estimate for ``key``; ``seed`` is asked if it is not known, or was forgotten."""
        known = self._by_key
        estimate = known.get(key) if self._most is None else known.pop(key, None)
        if estimate is None:
            estimate = SlidingEstimate(seed(), self._window, self._pace)
            if self._most is not None and len(known) >= self._most:
                del known[next(iter(known))]
            known[key] = estimate
        elif self._most is not None:
            known[key] = estimate
        return estimate

    def add(self, now: Nanos, key: object, measured: Nanos) -> None:
        """One more measurement of ``key``; ignored if the key is not known, or was forgotten."""
        estimate = self._by_key.get(key)
        if estimate is not None:
            estimate.add(measured, now)
