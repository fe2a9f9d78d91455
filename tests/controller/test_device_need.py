"""The wanted number of devices rises at once, falls slowly, and never alternates."""

import random
from math import sqrt

import pytest

from clockwork.controller.device_need import (
    HOLD,
    IDLE,
    MIN_TARGET,
    SETTLED,
    START,
    TARGET,
    TOO_MUCH_MISSED,
    WINDOWS,
    DeviceNeed,
    Slot,
)


def after(need: DeviceNeed, slots: int, slot: Slot, devices: int = 1) -> int:
    """Close several equal slots, and return the wanted number."""
    for _ in range(slots):
        need.close(slot, devices)
    return need.wanted


def test_more_work_is_answered_within_the_shortest_window() -> None:
    need = DeviceNeed(1)
    assert after(need, 30, Slot(urgent=0.5)) == 1
    assert after(need, WINDOWS[0], Slot(urgent=4.0)) == 5


def test_refused_work_counts_like_served_work() -> None:
    need = DeviceNeed(1)
    assert after(need, 10, Slot(urgent=3.5, missed=2.5)) == 4


def test_chance_does_not_raise_the_number() -> None:
    need = DeviceNeed(4)
    after(need, HOLD + 30, Slot(urgent=3.4, variance=0.2), 4)
    need.close(Slot(urgent=4.4, variance=0.2), 4)
    assert need.wanted == 4


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_load_gains_no_device_by_chance(seed: int) -> None:
    draw, need, row = random.Random(seed), DeviceNeed(16), 0.0108
    wanted = set()
    for _ in range(HOLD):
        requests = round(draw.gauss(1290, sqrt(1290)))
        need.close(Slot(urgent=requests * row, variance=requests * row * row), 16)
        wanted.add(need.wanted)
    assert wanted == {16}, "the need is 13.9 / 0.9 = 15.5 devices"


def test_an_earlier_peak_holds_the_number_and_then_lets_it_fall() -> None:
    need = DeviceNeed(1)
    after(need, START, Slot(urgent=1.0), 1)
    after(need, 10, Slot(urgent=7.0), 8)
    assert need.wanted == 8
    assert after(need, HOLD - 20, Slot(urgent=1.0), 8) == 8
    assert need.held() > 0
    assert after(need, 60, Slot(urgent=1.0), 8) == 2
    assert need.held() == 0 or need.wanted == 2


def test_a_load_at_the_border_of_two_numbers_does_not_alternate() -> None:
    need = DeviceNeed(1)
    after(need, 60, Slot(urgent=4.5), 5)
    changes, before = 0, need.wanted
    for number in range(3000):
        need.close(Slot(urgent=4.5 + (0.15 if number % 60 < 30 else -0.15)), need.wanted)
        changes += need.wanted != before
        before = need.wanted
    assert changes <= 2


def test_the_number_changes_its_direction_only_with_the_load() -> None:
    need = DeviceNeed(1)
    directions, before = [1], need.wanted
    for number in range(20 * HOLD):
        need.close(Slot(urgent=6.0 if number % (2 * HOLD) < 20 else 1.0), before)
        if need.wanted != before:
            direction = 1 if need.wanted > before else -1
            directions += [direction] if direction != directions[-1] else []
        before = need.wanted
    assert len(directions) == 2 * 10


def test_after_a_start_the_present_devices_are_wanted_until_the_load_is_known() -> None:
    need = DeviceNeed(6)
    assert after(need, START + HOLD - 1, IDLE, 6) == 6
    assert after(need, 1, IDLE, 6) == 1


def test_work_that_can_wait_asks_for_no_device_unless_requests_are_refused() -> None:
    need = DeviceNeed(3)
    assert after(need, 100, Slot(patient=3.0), 3) == 3
    assert after(need, 10, Slot(patient=5.0, missed=2.0), 3) == 6


def test_loads_of_weights_count_only_if_requests_are_refused_because_of_them() -> None:
    need = DeviceNeed(2)
    assert after(need, 30, Slot(urgent=0.5, loading=2.0), 2) == 2
    assert after(need, 10, Slot(urgent=0.5, cold=0.1, loading=2.4), 2) == 3


def test_a_fleet_that_refuses_with_all_wanted_devices_gets_more_and_the_target_recovers() -> None:
    need = DeviceNeed(4)
    slot = Slot(urgent=3.5, missed=0.3)
    assert after(need, SETTLED, slot, 4) == 4
    assert after(need, 6, slot, 4) == 5
    assert need.target == pytest.approx(0.95 * 3.2 / 4, rel=0.01)
    assert after(need, 500, Slot(urgent=3.5), 5) >= 4
    assert 0.95 * 3.2 / 4 < need.target < TARGET


def test_refusals_while_devices_are_added_do_not_lower_the_target() -> None:
    need = DeviceNeed(1)
    for devices in range(1, 5):
        after(need, SETTLED - 1, Slot(urgent=3.5, missed=0.3), devices)
    assert need.target == TARGET


def test_the_first_second_of_a_higher_load_does_not_lower_the_target() -> None:
    need = DeviceNeed(1)
    after(need, 60, Slot(urgent=0.8), 1)
    after(need, SETTLED - 1, Slot(urgent=4.0, missed=3.0), 1)
    assert need.target == pytest.approx(TARGET)


def test_the_few_refusals_of_a_fleet_that_is_large_enough_do_not_lower_the_target() -> None:
    need = DeviceNeed(16)
    assert after(need, HOLD, Slot(urgent=14.0, missed=0.9 * TOO_MUCH_MISSED * 14.0), 16) == 16
    assert need.target == TARGET


def test_refusals_that_devices_do_not_avoid_ask_for_at_most_twice_the_devices() -> None:
    need = DeviceNeed(4)
    for _ in range(2000):
        need.close(Slot(urgent=3.0, missed=2.0), need.wanted)
    assert need.target >= MIN_TARGET
    assert need.wanted <= 3.0 / MIN_TARGET + 1
