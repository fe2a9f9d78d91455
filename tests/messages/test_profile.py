"""Percentiles of measurements, and estimates of profiles."""

import pytest

from builders import measurement, profile
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.units import ms


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ((7,), 50, 7),
        ((7,), 99, 7),
        ((3, 1, 2), 50, 2),
        ((4, 1, 3, 2), 50, 2),
        ((4, 1, 3, 2), 0, 1),
        ((4, 1, 3, 2), 100, 4),
        (tuple(range(1, 11)), 99, 10),  # with ten samples the p99 is the maximum
        (tuple(range(1, 101)), 99, 99),
        (tuple(range(100, 0, -1)), 99, 99),
        (tuple(range(1, 201)), 99, 198),
    ],
)
def test_a_percentile_is_the_nearest_rank(samples: tuple[int, ...], percent: float, expected: int) -> None:
    assert Measurement(samples).percentile(percent) == expected


def test_the_median_and_the_p99_are_percentiles() -> None:
    measured = measurement(*range(1, 101))
    assert (measured.median, measured.p99) == (50, 99)


def test_the_estimate_is_that_of_the_next_measured_size_and_grows_in_proportion_beyond() -> None:
    measured = profile(max_batch_size=4)
    assert measured.batch_sizes == (1, 2, 4)
    assert [measured.infer_estimate(rows) for rows in (1, 2, 3, 4)] == [ms(3), ms(4), ms(6), ms(6)]
    assert measured.infer_estimate(5) == ms(7.5)
    assert measured.infer_estimate(8) == ms(12)


@pytest.mark.parametrize(
    ("per_row", "expected"),
    [
        ({1: 4.0, 2: 3.0, 4: 2.5, 8: 2.2}, 8),  # a GPU's
        ({1: 2.91, 2: 2.92, 4: 2.95, 8: 3.15, 16: 3.34}, 4),  # squeezenet's on a CPU core
        ({1: 2.0, 2: 2.07, 4: 2.0}, 4),
        ({1: 2.0, 2: 1.5, 4: 1.6}, 2),
        ({1: 2.0, 2: 3.0}, 1),
        ({1: 2.0}, 1),
    ],
)
def test_a_batch_size_is_worthwhile_unless_a_smaller_one_takes_less_per_row(
    per_row: dict[int, float], expected: int
) -> None:
    infer = {size: measurement(*[ms(size * time)] * 3, ms(100)) for size, time in per_row.items()}
    assert ModelProfile(measurement(1), infer).worthwhile_batch_size == expected


def test_an_estimate_in_proportion_is_rounded_up() -> None:
    assert ModelProfile(measurement(1), {2: measurement(3)}).infer_estimate(3) == 5
