"""The estimate of the offset between two clocks is within its error bound, whatever the network does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork.messages.actions import (
    Action,
    ClearCache,
    EvictWeights,
    GetWorkerState,
    Infer,
    LoadModelFromDisk,
    LoadWeights,
    UnloadModel,
)
from clockwork.messages.results import (
    ClearCacheResult,
    ErrorResult,
    EvictWeightsResult,
    InferResult,
    LoadModelFromDiskResult,
    LoadWeightsResult,
    Result,
    Timing,
)
from clockwork.units import FOREVER, SECOND, Nanos, ms, seconds, us
from clockwork.wire.clock_offset import ClockOffset, shift_action, shift_moment, shift_result


def sample(offset: ClockOffset, at: Nanos, *, ahead: Nanos, there: Nanos, held: Nanos = 0, back: Nanos) -> Nanos:
    """A Ping that took ``there`` to a peer whose clock is ``ahead``, and ``back``; returns when its Pong came."""
    now = at + there + held + back
    offset.add(ping_sent=at, received=at + there + ahead, pong_sent=at + there + held + ahead, now=now)
    return now


def test_the_offset_is_unknown_before_the_first_sample() -> None:
    offset = ClockOffset()
    assert (offset.offset_ns, offset.error_ns(seconds(1)), offset.samples) == (0, FOREVER, 0)


@pytest.mark.parametrize("ahead", [0, seconds(5), -seconds(5), seconds(86400)])
def test_equal_times_there_and_back_give_the_exact_offset(ahead: Nanos) -> None:
    offset = ClockOffset()
    now = sample(offset, seconds(100), ahead=ahead, there=us(50), held=ms(3), back=us(50))
    assert offset.offset_ns == ahead
    assert offset.error_ns(now) == us(50), "time that the peer held the Ping does not count"


def test_unequal_times_there_and_back_give_an_error_within_the_bound() -> None:
    offset = ClockOffset()
    now = sample(offset, 0, ahead=seconds(1), there=ms(9), back=ms(1))
    assert offset.offset_ns == seconds(1) + ms(4)
    assert offset.error_ns(now) == ms(5)


def test_one_fast_round_trip_beats_many_slow_ones() -> None:
    offset = ClockOffset()
    now = 0
    for _ in range(5):
        now = sample(offset, now, ahead=0, there=ms(20), back=ms(1))
    now = sample(offset, now, ahead=0, there=us(30), back=us(30))
    for _ in range(5):
        now = sample(offset, now, ahead=0, there=ms(20), back=ms(1))
    assert offset.offset_ns == 0
    assert us(30) <= offset.error_ns(now) < us(45)


def test_the_bound_grows_with_age_until_a_slower_round_trip_is_better() -> None:
    offset = ClockOffset(drift_ppm=100)
    now = sample(offset, 0, ahead=0, there=us(50), back=us(50))
    assert offset.error_ns(now + seconds(10)) == us(50) + ms(1)
    sample(offset, ms(400), ahead=us(70), there=us(100), back=us(100))
    assert offset.offset_ns == 0, "50 us and 40 us of drift are better than 100 us"
    sample(offset, seconds(4), ahead=us(300), there=us(100), back=us(100))
    assert offset.offset_ns == us(300)


def test_a_sample_older_than_the_window_is_forgotten() -> None:
    offset = ClockOffset(window=3)
    sample(offset, 0, ahead=-seconds(9), there=1, back=1)
    for i in range(1, 4):
        sample(offset, i, ahead=seconds(9), there=us(100), back=us(100))
    assert (offset.offset_ns, offset.samples) == (seconds(9), 3)


@pytest.mark.parametrize(
    ("ping_sent", "received", "pong_sent", "now"),
    [
        (100, 0, 500, 200),  # held for longer than the round trip
        (100, 500, 400, 200),  # answered before it was received
        (200, 0, 0, 100),  # received before it was sent
    ],
)
def test_a_sample_with_impossible_times_is_ignored(ping_sent: int, received: int, pong_sent: int, now: int) -> None:
    offset = ClockOffset()
    offset.add(ping_sent=ping_sent, received=received, pong_sent=pong_sent, now=now)
    assert offset.samples == 0


@given(st.integers(0, 2**32), st.integers(-FOREVER // 4, FOREVER // 4), st.integers(-99, 99))
def test_under_skew_drift_and_jitter_the_true_offset_is_within_the_bound(
    seed: int, ahead: Nanos, drift_ppm: int
) -> None:
    rng = random.Random(seed)
    offset = ClockOffset(drift_ppm=100)

    def theirs(ours: Nanos) -> Nanos:
        return ours + ahead + ours * drift_ppm // 1_000_000

    now = seconds(3)
    for _ in range(60):
        now += SECOND // 2
        received = now + us(20) + round(rng.expovariate(1 / us(200)))
        pong_sent = received + rng.randrange(us(100))
        back = pong_sent + us(20) + round(rng.expovariate(1 / us(200)))
        offset.add(ping_sent=now, received=theirs(received), pong_sent=theirs(pong_sent), now=back)
        now = back
        for later in (now, now + SECOND, now + seconds(30)):
            assert abs(offset.offset_ns - (theirs(later) - later)) <= offset.error_ns(later) + 2  # rounding
    assert offset.error_ns(now) < ms(1)


# ------------------------------------------------------------------------------------------------------ moving messages


@pytest.mark.parametrize(
    ("moment", "by", "expected"),
    [
        (0, 500, 0),
        (FOREVER, 500, FOREVER),
        (FOREVER, -500, FOREVER),
        (100, 500, 600),
        (600, -500, 100),
        (100, -500, 1),  # 0 means: at any time
        (FOREVER - 5, 500, FOREVER - 1),
    ],
)
def test_moments_are_shifted_but_0_and_forever_stay(moment: Nanos, by: Nanos, expected: Nanos) -> None:
    assert shift_moment(moment, by) == expected


@pytest.mark.parametrize(
    ("action", "moved"),
    [
        (LoadModelFromDisk(1, "p", "m", 1, 100, 200), LoadModelFromDisk(1, "p", "m", 1, 110, 210)),
        (LoadWeights(1, 0, "m", 100, 200, 50), LoadWeights(1, 0, "m", 110, 210, 50)),
        (EvictWeights(1, 0, "m"), EvictWeights(1, 0, "m", 0, FOREVER)),
        (Infer(1, 0, "m", (), 0, 200, 50), Infer(1, 0, "m", (), 0, 210, 50)),
        (UnloadModel(1, ("m",)), UnloadModel(1, ("m",))),
        (ClearCache(1), ClearCache(1)),
        (GetWorkerState(1), GetWorkerState(1)),
    ],
)
def test_the_window_of_an_action_is_shifted(action: Action, moved: Action) -> None:
    assert shift_action(action, 10) == moved
    assert shift_action(action, 0) is action


T, MOVED = Timing(100, 150, 40), Timing(90, 140, 40)


@pytest.mark.parametrize(
    ("result", "moved"),
    [
        (InferResult(1, (), T, T, T), InferResult(1, (), MOVED, MOVED, MOVED)),
        (LoadModelFromDiskResult(1, (), T), LoadModelFromDiskResult(1, (), MOVED)),
        (LoadWeightsResult(1, T), LoadWeightsResult(1, MOVED)),
        (EvictWeightsResult(1, T), EvictWeightsResult(1, MOVED)),
        (LoadWeightsResult(1, Timing(0, 0, 0)), LoadWeightsResult(1, Timing(0, 0, 0))),
        (ClearCacheResult(1), ClearCacheResult(1)),
        (ErrorResult(1, "Infer", 11, "late"), ErrorResult(1, "Infer", 11, "late")),
    ],
)
def test_the_timings_of_a_result_are_shifted(result: Result, moved: Result) -> None:
    assert shift_result(result, -10) == moved
    assert shift_result(result, 0) is result
