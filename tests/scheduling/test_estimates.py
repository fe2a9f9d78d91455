"""Estimates follow the last measurements, and outliers change them little."""

from random import Random

import pytest

from clockwork.scheduling.estimates import FORGOTTEN, OUTLIER, STALE, WITHIN, Estimates, Pace, SlidingEstimate
from clockwork.units import SECOND, ms


def after(*measured: float, seed: float = 10, window: int = 10, pace: Pace | None = None) -> SlidingEstimate:
    """Return an estimate after these measurements in milliseconds, ten per second."""
    estimate = SlidingEstimate(ms(seed), window, pace)
    for i, value in enumerate(measured):
        estimate.add(ms(value), i * SECOND // 10)
    return estimate


def test_an_estimate_is_the_seed_and_after_measurements_the_maximum_of_the_window() -> None:
    assert after().value == ms(10)
    assert after(9).value == ms(10)
    assert after(9, 12).value == ms(12)
    assert after(*[9] * 10).value == ms(9), "the seed is forgotten after a window"
    assert after(12, *[9] * 9).value == ms(12)
    assert after(12, *[9] * 10).value == ms(9)


def test_an_outlier_raises_the_estimate_a_little_and_for_a_while() -> None:
    hit = after(*[10] * 10, 500, pace=Pace())
    assert ms(10.2) < hit.value < ms(10.4)
    for _ in range(20):
        hit.add(ms(10))
    assert ms(10.1) < hit.value < ms(10.4), "the outlier still has an effect after twenty other measurements"
    for _ in range(100):
        hit.add(ms(10))
    assert hit.value == ms(10)


def test_a_window_never_raises_the_estimate_beyond_a_multiple_of_its_median() -> None:
    assert after(*[10] * 10, 500).value == OUTLIER * ms(10)
    assert after(*[10] * 10, 500, 500, pace=Pace()).value == OUTLIER * ms(10)


def test_the_second_slow_measurement_raises_the_estimate() -> None:
    estimate = after(*[10] * 10, pace=Pace())
    values = []
    for _ in range(10):
        estimate.add(ms(25))
        values.append(estimate.value)
    assert values[0] < ms(11)
    assert values[1] == ms(25)
    assert ms(25) <= values[-1] <= ms(25 * 1.5)


def test_a_device_that_is_slow_for_half_of_its_actions_is_slow_for_all() -> None:
    estimates = Estimates(10, Pace())
    often, seldom = (estimates.of(key, lambda: ms(10)) for key in ("often", "seldom"))
    for i in range(20):
        often.add(ms(10), i)
    for i in range(4):
        often.add(ms(40), 20 + i)
    assert seldom.at(30) < ms(12), "the slow measurements may have been due to the model"
    often.add(ms(40), 24)
    assert ms(40) <= often.at(30) < ms(50)
    assert seldom.at(30) == ms(40)
    for i in range(5):
        often.add(ms(10), 40 + i)
    assert seldom.at(50) == ms(40)
    often.add(ms(10), 50)
    assert seldom.at(50) < ms(13), "it is no longer slow when more than half of the measurements are as usual"


def test_a_measurement_on_a_slow_device_replaces_the_device_s_factor() -> None:
    estimates = Estimates(10, Pace())
    others, seldom = (estimates.of(key, lambda: ms(10)) for key in ("others", "seldom"))
    now = SECOND
    for _ in range(1100):  # for example, a wrong profile
        others.add(ms(30), now)
        now += SECOND // 100
    assert seldom.at(now) == ms(10), "after ten seconds without a measurement"
    seldom.add(ms(11), now)
    assert ms(11) <= seldom.at(now) < ms(17)


def test_noise_does_not_make_a_device_slow() -> None:
    chance, pace = Random(2), Pace()
    for _ in range(10_000):
        pace.add(chance.lognormvariate(0, 0.1) * (5 if chance.random() < 0.03 else 1), within=True)
        assert pace.factor == 1.0


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.1])
def test_the_margin_brings_the_stated_share_within_the_estimate(spread: float) -> None:
    chance, pace = Random(3), Pace()
    estimates = Estimates(10, pace)
    models = [estimates.of(i, lambda: ms(10)) for i in range(50)]
    within = 0
    for i in range(20_000):
        took, model = round(ms(10) * chance.lognormvariate(0, spread)), chance.choice(models)
        within += took <= model.at(i)
        model.add(took, i)
    assert WITHIN - 0.005 < within / 20_000 < WITHIN + 0.005
    assert pace.margin < 0.05 + 5 * spread


def test_an_estimate_without_measurements_relaxes() -> None:
    estimate = after(*[30] * 10)
    last = 9 * SECOND // 10
    assert estimate.at(last + STALE) == ms(30)
    slow = after(*[10] * 9, 25)
    assert slow.at(last + STALE) == ms(25)
    assert slow.at(last + STALE + 1) == ms(10), "it relaxes to the median first"
    assert estimate.at(last + FORGOTTEN + 1) == ms(10), "then it relaxes to the seed"


def test_on_a_noisy_host_most_actions_are_within_a_close_estimate() -> None:
    chance = Random(1)
    estimate = after(*[10] * 10, pace=Pace())
    within, ratios = 0, []
    for i in range(5000):
        took = ms(10) * chance.lognormvariate(0, 0.05) * (4 if chance.random() < 0.005 else 1)
        value = estimate.at(i * SECOND // 100)
        within += took <= value
        ratios.append(value / took)
        estimate.add(round(took), i * SECOND // 100)
    assert within > 0.98 * 5000
    assert sum(ratios) / 5000 < 1.2


def test_measurements_without_an_estimate_are_not_kept() -> None:
    estimates = Estimates(10)
    estimates.add(0, "a", ms(5))
    assert estimates.of("a", lambda: ms(7)).value == ms(7)
    estimates.add(0, "a", ms(9))
    assert estimates.of("a", lambda: ms(1)).value == ms(9)
