"""The recent demand for each model, by SLO."""

import pytest

from clockwork.controller.demand import MAX_SLOS, DemandMeter
from clockwork.messages.counts import ModelDemand
from clockwork.units import SECOND, ms, seconds


def test_the_rate_is_that_of_the_last_minute_with_requests_by_slo() -> None:
    meter = DemandMeter()
    for second in range(100):
        meter.add("old", ms(10), seconds(second))
    for tenth in range(600):
        meter.add("a", ms(200), seconds(1000) + tenth * SECOND // 10)
        if tenth % 2:
            meter.add("a", ms(50), seconds(1000) + tenth * SECOND // 10)
    assert meter.of("old") == ()
    fast, slow = meter.of("a")
    assert (fast.slo, slow.slo) == (ms(50), ms(200))
    assert fast.rate == pytest.approx(5, rel=0.1)
    assert slow.rate == pytest.approx(10, rel=0.1)


def test_a_short_load_is_not_averaged_with_idle_time() -> None:
    meter = DemandMeter()
    meter.add("a", ms(100), 0)
    for hundredth in range(400):
        meter.add("a", ms(100), seconds(300) + hundredth * SECOND // 100)
    assert meter.of("a")[0].rate == pytest.approx(100, rel=0.01)


def test_a_single_request_counts_as_one_per_second() -> None:
    meter = DemandMeter()
    meter.add("a", ms(100), seconds(5))
    assert meter.of("a") == (ModelDemand(ms(100), 1.0),)


def test_memory_is_bounded_whatever_slos_clients_choose() -> None:
    meter = DemandMeter()
    for number in range(10_000):
        meter.add("a", 1 + number * 977, number * SECOND)
    demand = meter.of("a")
    assert len(demand) == MAX_SLOS
    assert sum(entry.rate for entry in demand) == pytest.approx(1, rel=0.1)
