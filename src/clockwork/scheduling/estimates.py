"""Estimates of durations: what was measured last, seeded by the profile.

The estimate is the p99 of a sliding window by nearest rank; of ten measurements that is their maximum (the original's
window and percentile). The seed counts as one measurement, so it is gone after a window of real ones.
"""

from collections import deque
from collections.abc import Callable

from clockwork.units import Nanos


class SlidingEstimate:
    """The p99 of the last measurements of one thing."""

    __slots__ = ("_samples", "value")

    def __init__(self, seed: Nanos, window: int) -> None:
        """``seed`` is the estimate as long as nothing was measured."""
        self._samples: deque[Nanos] = deque((seed,), maxlen=window)
        self.value: Nanos = seed

    def add(self, measured: Nanos) -> None:
        """One more measurement."""
        samples = self._samples
        oldest = samples[0] if len(samples) == samples.maxlen else -1
        samples.append(measured)
        if measured >= self.value:
            self.value = measured
        elif oldest == self.value:
            self.value = max(samples)


class Estimates:
    """Estimates by key, made when they are first needed."""

    def __init__(self, window: int) -> None:
        """``window``: measurements that each estimate is made of."""
        self._window = window
        self._by_key: dict[object, SlidingEstimate] = {}

    def of(self, key: object, seed: Callable[[], Nanos]) -> Nanos:
        """The estimate for ``key``; ``seed`` is asked the first time."""
        estimate = self._by_key.get(key)
        if estimate is None:
            estimate = self._by_key[key] = SlidingEstimate(seed(), self._window)
        return estimate.value

    def add(self, key: object, measured: Nanos) -> None:
        """One more measurement of ``key``; ignored if nobody has asked for it yet."""
        estimate = self._by_key.get(key)
        if estimate is not None:
            estimate.add(measured)
