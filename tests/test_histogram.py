"""Counts of durations in buckets."""

import pytest

from clockwork.histogram import Histogram, add_to_both
from clockwork.units import FOREVER, SECOND, ms, us


def test_percentiles_are_exact_to_one_per_cent() -> None:
    histogram = Histogram()
    for value in range(1, 1001):
        histogram.add(ms(value))
    for percent in (50, 90, 99):
        assert histogram.percentile(percent) == pytest.approx(ms(percent * 10), rel=0.011)
    assert histogram.percentile(100) == ms(1000)
    assert Histogram().percentile(50) is None
    assert histogram.steps()[-1][1] == 1.0


def test_wider_buckets_are_fewer_and_have_the_same_total() -> None:
    fine, wide, alone = Histogram(), Histogram(10), Histogram(10)
    for value in range(1, 1001):
        add_to_both(ms(value), fine, wide)
        alone.add(ms(value))
    assert fine.count == wide.count == 1000
    assert wide.buckets == alone.buckets
    assert len(wide.buckets) < len(fine.buckets) / 5
    assert wide.percentile(50) == pytest.approx(ms(500), rel=0.105)
    assert fine.percentile(50) == pytest.approx(ms(500), rel=0.011)
    assert fine.longest == wide.longest == ms(1000)


def test_histograms_can_be_merged() -> None:
    both, one, other = Histogram(), Histogram(), Histogram()
    for value in (1, us(1), us(7), ms(3)):
        one.add(value)
        both.add(value)
    for value in (us(7), SECOND, FOREVER):
        other.add(value)
        both.add(value)
    one.merge(other)
    assert (one.buckets, one.longest, one.count) == (both.buckets, FOREVER, 7)
    assert one.total == both.total == 1 + us(1) + 2 * us(7) + ms(3) + SECOND + FOREVER


def test_counts_up_to_a_bound_are_exact_to_one_per_cent() -> None:
    histogram = Histogram()
    for value in range(1, 1001):
        histogram.add(ms(value))
    bounds = [us(1), ms(100), ms(250), SECOND, 10 * SECOND]
    found = histogram.up_to(bounds)
    assert found == sorted(found)
    for bound, count in zip(bounds, found, strict=True):
        assert count == pytest.approx(min(1000, bound / ms(1)), rel=0.011, abs=0.01)
    assert Histogram().up_to(bounds) == [0] * 5
