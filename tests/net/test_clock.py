"""The clocks of the hosts."""

from clockwork.clock import Clock, MonotonicClock, OffsetClock
from clockwork.units import Nanos, seconds


class SetClock:
    def __init__(self, at: Nanos) -> None:
        self.at = at

    def now(self) -> Nanos:
        return self.at


def test_the_monotonic_clock_never_runs_backwards() -> None:
    clock: Clock = MonotonicClock()
    times = [clock.now() for _ in range(1000)]
    assert times == sorted(times)


def test_an_offset_clock_has_the_given_offset_and_drift() -> None:
    base = SetClock(seconds(10))
    clock: Clock = OffsetClock(base, seconds(3), drift_ppm=50)
    assert clock.now() == seconds(13)
    base.at = seconds(20)
    assert clock.now() == seconds(23) + 500_000
