"""Estimates of durations: what was measured last, seeded by the profile.

The estimate is the p99 of a sliding window by nearest rank; of ten measurements that is their maximum (the original's
window and percentile). The seed counts as one measurement, so it is gone after a window of real ones.

Two things keep one bad moment (a host that stops for seconds) from putting a model out of service. A measurement far
from the window's median counts as an *outlier*: it raises the estimate, but not beyond a multiple of the median, unless
the median follows. And an estimate that nobody has measured for a while *relaxes*, first to the median, then to the
seed: what is never tried because it is thought to take too long would never be measured again.

One thing makes them believe the worst soon. A device that turns slow (its clock is throttled, its core is shared) is
slow for everything, and most models and batch sizes are not measured every second. `Speed` compares each measurement
with what was usual; when half of the last ones on the device took far longer, all its estimates grow with them.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.units import SECOND, Nanos

OUTLIER: Final = 3
"""Times the median: a single measurement does not raise the estimate beyond."""

STALE: Final[Nanos] = 1 * SECOND
"""An estimate that was not measured for this long relaxes to the median of its window."""

FORGOTTEN: Final[Nanos] = 10 * SECOND
"""And after this long to the seed, if that is less."""


SLOW: Final = 1.25
"""Times the usual: a device that takes so long for half of what it does is slow. Below that, windows follow by
themselves."""

COMPARED: Final = 10
"""Measurements on a device that are compared with the usual."""


class Speed:
    """How slow a device is: ``factor`` times the usual, or 1.0."""

    __slots__ = ("_ratios", "factor")

    def __init__(self) -> None:
        """As fast as ever."""
        self.factor = 1.0
        self._ratios: deque[float] = deque([1.0] * COMPARED, maxlen=COMPARED)

    def add(self, ratio: float) -> None:
        """Something took ``ratio`` times the usual."""
        self._ratios.append(ratio)
        if ratio < SLOW and self.factor == 1.0:
            return
        median = sorted(self._ratios)[COMPARED // 2]  # five of ten: before the median of a window has moved
        self.factor = median if median > SLOW else 1.0


class SlidingEstimate:
    """The p99 of the last measurements of one thing."""

    __slots__ = ("_at", "_median", "_samples", "_speed", "_usual", "seed", "value")

    def __init__(self, seed: Nanos, window: int, speed: Speed | None = None) -> None:
        """``seed`` is the estimate as long as nothing was measured; ``speed`` is that of the device, if it matters."""
        self.seed: Nanos = seed
        self._speed = speed
        self._usual: Nanos = max(1, seed)  #: the median, as long as the device is not slow
        self._samples: deque[Nanos] = deque((seed,), maxlen=window)
        self._median: Nanos = seed
        self._at: Nanos = 0
        self.value: Nanos = seed

    def add(self, measured: Nanos, now: Nanos = 0) -> None:
        """One more measurement, made at ``now``."""
        speed = self._speed
        if speed is not None:
            speed.add(measured / self._usual)
        self._samples.append(measured)
        self._at = now
        ranked = sorted(self._samples)
        self._median = ranked[(len(ranked) - 1) // 2]
        self.value = min(ranked[-1], OUTLIER * self._median)
        if speed is None or speed.factor == 1.0:
            self._usual = max(1, self._median)

    def at(self, now: Nanos) -> Nanos:
        """The estimate, with regard to how old it is, and to how slow the device is."""
        if self._speed is not None and self._speed.factor > 1.0:
            return max(round(self._usual * self._speed.factor), self.value)
        age = now - self._at
        if age <= STALE or self.value <= self.seed:
            return self.value
        return self._median if age <= FORGOTTEN else min(self._median, self.seed)


class Estimates:
    """Estimates by key, made when they are first needed."""

    def __init__(self, window: int, speed: Speed | None = None) -> None:
        """``window``: measurements that each estimate is made of; ``speed``: that of the device, if it matters."""
        self._window = window
        self._speed = speed
        self._by_key: dict[object, SlidingEstimate] = {}

    def of(self, key: object, seed: Callable[[], Nanos]) -> SlidingEstimate:
        """The estimate for ``key``; ``seed`` is asked the first time."""
        estimate = self._by_key.get(key)
        if estimate is None:
            estimate = self._by_key[key] = SlidingEstimate(seed(), self._window, self._speed)
        return estimate

    def add(self, now: Nanos, key: object, measured: Nanos) -> None:
        """One more measurement of ``key``; ignored if nobody has asked for it yet."""
        estimate = self._by_key.get(key)
        if estimate is not None:
            estimate.add(measured, now)
