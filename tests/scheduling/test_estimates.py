"""Estimates: what was measured last, whatever happens once."""

from random import Random

from clockwork.scheduling.estimates import FORGOTTEN, OUTLIER, STALE, Estimates, SlidingEstimate, Speed
from clockwork.units import SECOND, ms


def after(*measured: float, seed: float = 10, window: int = 10) -> SlidingEstimate:
    """An estimate that has seen these milliseconds, ten of them a second."""
    estimate = SlidingEstimate(ms(seed), window)
    for i, value in enumerate(measured):
        estimate.add(ms(value), i * SECOND // 10)
    return estimate


def test_it_is_the_seed_until_something_was_measured_and_then_the_largest_of_the_window() -> None:
    assert after().value == ms(10)
    assert after(9).value == ms(10)
    assert after(9, 12).value == ms(12)
    assert after(*[9] * 10).value == ms(9), "the seed is forgotten after a window"
    assert after(12, *[9] * 9).value == ms(12)
    assert after(12, *[9] * 10).value == ms(9)


def test_an_outlier_counts_but_does_not_blow_the_estimate_up() -> None:
    hit = after(*[10] * 10, 500)
    assert hit.value == OUTLIER * ms(10)
    for _ in range(10):
        hit.add(ms(10))
    assert hit.value == ms(10)


def test_a_device_that_turned_slow_is_believed_as_soon_as_the_median_says_so() -> None:
    estimate = after(*[10] * 10)
    values = []
    for _ in range(10):
        estimate.add(ms(50))
        values.append(estimate.value)
    assert values[0] == OUTLIER * ms(10), "at once, as far as one measurement goes"
    assert values[5] == ms(50)


def test_a_device_that_is_slow_for_half_of_what_it_does_is_slow_for_all_of_it() -> None:
    estimates = Estimates(10, Speed())
    often, seldom = (estimates.of(key, lambda: ms(10)) for key in ("often", "seldom"))
    for i in range(20):
        often.add(ms(10), i)
    for i in range(4):
        often.add(ms(40), 20 + i)
    assert seldom.at(30) == ms(10), "it may have been the model"
    often.add(ms(40), 24)
    assert (often.at(30), seldom.at(30)) == (ms(40), ms(40))
    seldom.add(ms(60), 31)
    assert seldom.at(32) == ms(40), "one outlier of a slow device is one"
    for i in range(6):
        often.add(ms(10), 40 + i)
    assert seldom.at(50) < ms(40)
    assert Speed().factor == 1.0


def test_noise_makes_no_device_slow() -> None:
    chance, speed = Random(2), Speed()
    for _ in range(10_000):
        speed.add(chance.lognormvariate(0, 0.1) * (5 if chance.random() < 0.03 else 1))
        assert speed.factor == 1.0


def test_what_nobody_measures_any_more_is_tried_again() -> None:
    estimate = after(*[30] * 10)
    last = 9 * SECOND // 10
    assert estimate.at(last + STALE) == ms(30)
    slow = after(*[10] * 9, 25)
    assert slow.at(last + STALE) == ms(25)
    assert slow.at(last + STALE + 1) == ms(10), "to the median first"
    assert estimate.at(last + FORGOTTEN + 1) == ms(10), "and then to the seed"


def test_on_a_noisy_host_most_are_within_the_estimate_and_it_is_not_far_off() -> None:
    chance = Random(1)
    estimate = after(*[10] * 10)
    within, ratios = 0, []
    for i in range(5000):
        took = ms(10) * chance.lognormvariate(0, 0.05) * (4 if chance.random() < 0.005 else 1)
        value = estimate.at(i * SECOND // 100)
        within += took <= value
        ratios.append(value / took)
        estimate.add(round(took), i * SECOND // 100)
    assert within > 0.88 * 5000
    assert sum(ratios) / 5000 < 1.3


def test_measurements_of_what_nobody_asked_for_are_not_kept() -> None:
    estimates = Estimates(10)
    estimates.add(0, "a", ms(5))
    assert estimates.of("a", lambda: ms(7)).value == ms(7)
    estimates.add(0, "a", ms(9))
    assert estimates.of("a", lambda: ms(1)).value == ms(9)
