"""The recent outcomes of a model's requests."""

import random

from clockwork.controller.recent import LONG_PERIOD, SHORT_PERIOD, Period, Recent
from clockwork.messages.counts import RecentCounts
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.units import MILLISECOND, SECOND, ms, seconds

HOUR = 3600 * SECOND


def test_each_window_counts_the_outcomes_of_its_time_only() -> None:
    recent = Recent()
    recent.answered(HOUR, Status.TIMEOUT, ms(101), ms(100))
    later = HOUR + seconds(200)
    recent.answered(later, Status.SUCCESS, ms(20), ms(50))
    recent.answered(later, Status.SKIPPED_BY_CONTROLLER, 0, ms(70), count=3)
    recent.answered(later, Status.CONTROLLER_COULD_NOT_START_IN_TIME, ms(1), ms(70), broken=True)
    recent.answered(later, Status.INVALID_REQUEST, 0)
    recent.answered(later, Status.CANCELLED, ms(2))
    recent.answered(later, 77_777, 0)
    short, long = recent.last_10_s(later, HOUR), recent.last_5_min(later, HOUR)
    assert (short.in_time, short.late, short.refused, short.failed, short.cancelled) == (1, 0, 4, 2, 1)
    assert (long.in_time, long.late, long.refused, long.failed, long.cancelled) == (1, 1, 4, 2, 1)
    assert short.broken_promises == long.broken_promises == 1
    assert (short.min_slo, short.max_slo, long.max_slo) == (ms(50), ms(70), ms(100))
    assert 10 * SECOND <= short.window < 12 * SECOND
    assert 300 * SECOND <= long.window < 330 * SECOND
    assert short.per_second == 8 * SECOND / short.window


def test_old_requests_leave_the_windows_without_new_requests() -> None:
    recent = Recent()
    recent.answered(HOUR, Status.SUCCESS, ms(5), ms(100))
    assert recent.last_10_s(HOUR + seconds(9), HOUR).in_time == 1
    assert recent.last_10_s(HOUR + seconds(12), HOUR).in_time == 0
    assert recent.last_5_min(HOUR + seconds(299), HOUR).in_time == 1
    assert recent.last_5_min(HOUR + seconds(330), HOUR).per_second == 0


def test_refusals_are_counted_by_reason_in_each_period() -> None:
    recent, other = Recent(), Recent()
    status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
    recent.answered(HOUR, status, 0, count=2, reason=RefusalReason.DEVICE_BUSY)
    recent.answered(HOUR, Status.SUCCESS, ms(5), reason=RefusalReason.DEVICE_BUSY)
    other.answered(HOUR, status, 0, reason=RefusalReason.DEVICE_BUSY)
    other.answered(HOUR, status, 0, reason=RefusalReason.NO_DEVICE)
    for width in (SHORT_PERIOD, LONG_PERIOD):
        total = Period(HOUR // width)
        for each in (recent, other):
            (period,) = each.periods(width)
            assert period.number == total.number
            total.add(period)
        assert total.reasons == {"device_busy": 3, "no_device": 1}
        assert total.counts == [1, 0, 4, 0, 0]
        assert total.latencies.count == 1


def test_percentiles_include_late_requests_and_no_refusals() -> None:
    recent = Recent()
    for number in range(98):
        recent.answered(number, Status.SUCCESS, ms(10), ms(100))
    for _ in range(2):
        recent.answered(100, Status.TIMEOUT, ms(100) + 1, ms(100))
    recent.answered(100, Status.SKIPPED_BY_CONTROLLER, 1, ms(100), count=1000)
    found = recent.last_10_s(SECOND, SECOND)
    assert ms(10) <= found.p50 <= ms(11)
    assert ms(100) < found.p99 <= ms(110)


def test_a_rate_counts_from_the_start_of_serving() -> None:
    recent = Recent()
    for _ in range(30):
        recent.answered(HOUR, Status.SUCCESS, ms(1))
    assert recent.last_10_s(HOUR + SECOND, seconds(3)).per_second == 10
    assert recent.last_5_min(HOUR + SECOND, MILLISECOND).per_second == 30, "the window is at least a second"


def test_a_model_without_requests_has_empty_windows() -> None:
    assert Recent().last_10_s(HOUR, seconds(3)) == RecentCounts(seconds(3))


def test_the_memory_of_a_window_is_limited() -> None:
    recent, rng, now = Recent(), random.Random(1), 0
    for _ in range(20_000):
        now += rng.randrange(SECOND)
        recent.answered(now, Status.SUCCESS, rng.randrange(1, 10 * SECOND), ms(100))
    rings = [recent._short._buckets, recent._long._buckets]
    assert [len(ring) for ring in rings] == [6, 11]
    assert sum(len(bucket.latencies.buckets) * 8 for ring in rings for bucket in ring) < 25_000
    total = recent.last_5_min(now, now)
    assert total.in_time == sum(bucket.counts[0] for bucket in rings[1])
