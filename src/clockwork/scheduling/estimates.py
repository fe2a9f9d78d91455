"""Estimates durations from the last measurements. Before the first measurement, the profile is used.

The original takes the p99 of a sliding window of ten measurements, which is their maximum. This has two disadvantages.
A new measurement is below the maximum in only ten of eleven cases. Also, one outlier makes the estimate useless for ten
measurements. This module also has a window, but takes the second largest measurement. In addition, the module adds a
*margin* to the median. The margin depends on the history of the device. The margin is chosen so that the share `WITHIN`
of the device's actions takes at most the estimated time. An action that takes longer raises the margin (a miss). Every
other action lowers the margin a little (a hit). The method is adaptive conformal inference (Gibbs and Candes 2021). So
one outlier raises the estimate by only a few per cent, and its effect lasts longer.

There are two more rules. First, a device may become slow, for example because its clock is throttled or its core is
shared. Then all actions of the device become slow, but most models and batch sizes are not measured every second. So
when half of the device's last measurements are far longer than usual, all estimates of the device grow. Second, an
estimate *relaxes* without new measurements. After a while the estimate falls to the median, and later to the seed.
Without this rule, an action whose estimate is too long would never be tried again, and so would never be measured
again.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.units import SECOND, Nanos

OUTLIER: Final = 3
"""The measurements of a window raise the estimate to at most this multiple of their median."""

STALE: Final[Nanos] = 1 * SECOND
"""Time without a measurement after which an estimate relaxes to the median of its window."""

FORGOTTEN: Final[Nanos] = 10 * SECOND
"""Time without a measurement after which an estimate relaxes to its first value (the *seed*), if this is shorter."""

WITHIN: Final = 0.985
"""Share of a device's actions that should take at most the estimated time."""

MARGIN_STEP: Final = 0.03
"""Approximate increase of the margin after a miss, as a share of the median.

The hits between two misses together lower the margin by about the same amount.
"""

MAX_MARGIN: Final = 0.5
"""Limit of the margin. With a larger margin, too many requests would be refused. If a device's jitter would require a
larger margin, more actions exceed their estimates.
"""

SLOW: Final = 1.25
"""A device is slow if half of its actions take this many times their usual duration.

For smaller slowdowns, the windows and the margin are enough.
"""

COMPARED: Final = 10
"""Number of measurements on a device that are compared with the usual duration."""


class Pace:
    """The present speed of a device, and the variation of its durations.

    ``factor`` is 1.0 at the usual speed. ``margin`` is a share of the median.
    """

    __slots__ = ("_ratios", "factor", "margin", "since")

    def __init__(self) -> None:
        """Start with the usual speed and no margin."""
        self.factor = 1.0
        self.since: Nanos = 0  #: time when the device last became slow
        self.margin = 0.0
        self._ratios: deque[float] = deque([1.0] * COMPARED, maxlen=COMPARED)

    def add(self, ratio: float, within: bool, now: Nanos = 0) -> None:
        """Add an action that took ``ratio`` times its usual duration.

        ``within`` states whether it was within its estimate.
        """
        if not within:
            self.margin = min(MAX_MARGIN, self.margin + MARGIN_STEP * WITHIN)
        elif self.margin > 0.0:
            self.margin = max(0.0, self.margin - MARGIN_STEP * (1 - WITHIN))
        self._ratios.append(ratio)
        if ratio < SLOW and self.factor == 1.0:
            return
        # the device counts as slow after five slow actions of ten, before the median of a window has moved
        median = sorted(self._ratios)[COMPARED // 2]
        if self.factor == 1.0:
            self.since = now
        self.factor = median if median > SLOW else 1.0


class SlidingEstimate:
    """Estimate of one duration.

    With a `Pace`, the rules in the module's docstring apply. Without a `Pace`, the estimate is the maximum of the
    window.
    """

    __slots__ = ("_at", "_last", "_median", "_pace", "_samples", "_usual", "_window", "seed")

    def __init__(self, seed: Nanos, window: int, pace: Pace | None = None) -> None:
        """Start without measurements. Until the first measurement, the estimate is ``seed``."""
        self.seed: Nanos = seed
        self._pace = pace
        self._samples: deque[Nanos] = deque((seed,), maxlen=window)
        self._median: Nanos = seed
        self._usual: Nanos = max(1, seed)  #: the median when the device was last not slow
        self._window: Nanos = seed  #: the estimate from the window alone
        self._at: Nanos = 0
        self._last: Nanos = 0  #: the last measurement if it was made while the device was slow; otherwise 0

    @property
    def value(self) -> Nanos:
        """The estimate before it is relaxed according to its age."""
        pace = self._pace
        if pace is None:
            return self._window
        value = max(self._window, round(self._median * (1 + pace.margin)))
        if pace.factor == 1.0:
            return value
        # A measurement of this action since the device became slow is better than the factor, which comes from other
        # actions.
        return max(value, round(self._last * (1 + pace.margin) if self._last else self._usual * pace.factor))

    def add(self, measured: Nanos, now: Nanos = 0) -> None:
        """Add a measurement that was made at ``now``."""
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
        """Return the estimate, relaxed according to the time since its last measurement."""
        value = self.value
        at, stale = self._at, STALE
        if self._pace is not None and self._pace.factor > 1.0:
            at, stale = max(at, self._pace.since), FORGOTTEN
        age = now - at
        if age <= stale or value <= self.seed:
            return value
        return self._median if age <= FORGOTTEN else min(self._median, self.seed)

    @property
    def measured_at(self) -> Nanos:
        """Time of the last measurement, or 0 if there is none."""
        return self._at


class Estimates:
    """Estimates by key, created when they are first needed."""

    def __init__(self, window: int, pace: Pace | None = None) -> None:
        """``window`` is the number of most recent measurements from which each estimate is computed.

        ``pace`` is the pace of the device.
        """
        self._window = window
        self._pace = pace
        self._by_key: dict[object, SlidingEstimate] = {}

    def of(self, key: object, seed: Callable[[], Nanos]) -> SlidingEstimate:
        """Return the estimate for ``key``. ``seed`` is called to get the first value of a new estimate."""
        estimate = self._by_key.get(key)
        if estimate is None:
            estimate = self._by_key[key] = SlidingEstimate(seed(), self._window, self._pace)
        return estimate

    def forget(self, key: object) -> None:
        """Forget the measurements of ``key``."""
        self._by_key.pop(key, None)

    def add(self, now: Nanos, key: object, measured: Nanos) -> None:
        """Add a measurement of ``key``, if there is an estimate for it."""
        estimate = self._by_key.get(key)
        if estimate is not None:
            estimate.add(measured, now)
