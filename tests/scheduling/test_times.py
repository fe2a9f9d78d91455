"""The times of one device are consistent among batch sizes."""

from random import Random

import pytest
from msgspec.structs import replace

from builders import measurement, model_info, model_state
from clockwork.messages.profile import ModelProfile
from clockwork.scheduling.clockwork.times import MAX_AGE, UNKNOWN_MARGIN, InferTimes
from clockwork.scheduling.estimates import FORGOTTEN
from clockwork.state import ModelState
from clockwork.units import Nanos, ms, seconds

SIZES = (1, 2, 4, 8)


def a_model(*infer: Nanos) -> ModelState:
    model = model_state(model_info("m"))
    (kind,) = model.profiles
    measured = {size: measurement(time) for size, time in zip(SIZES, infer, strict=True)}
    model.profiles[kind] = ModelProfile(measurement(ms(8)), measured, max(SIZES))
    return model


def of_each(made: InferTimes, now: Nanos, model: ModelState) -> list[Nanos]:
    return [made.of(now, model, rows, ()) for rows in range(1, 9)]


@pytest.fixture
def model() -> ModelState:
    return a_model(ms(10), ms(17), ms(31), ms(59))


@pytest.fixture
def made(model: ModelState) -> InferTimes:
    return InferTimes(next(iter(model.profiles)), 10)


def test_before_the_first_measurement_the_times_come_from_the_profile(model: ModelState, made: InferTimes) -> None:
    assert of_each(made, 0, model) == [ms(it) for it in (10, 17, 31, 31, 59, 59, 59, 59)]
    assert made.of(0, model, 16, ()) == ms(118)


def test_more_rows_take_at_least_as_long_as_fewer_that_became_slow(model: ModelState, made: InferTimes) -> None:
    for _ in range(6):
        made.add(seconds(1), model, 1, (), ms(100))
    for _ in range(6):
        made.add(seconds(1), a_model(*[ms(1)] * 4), 4, ("other",), ms(1))  # type: ignore[arg-type]
    slow = of_each(made, seconds(1), model)
    assert slow[0] >= ms(30)
    assert slow == sorted(slow)
    assert slow[1] >= slow[0], "two rows were not measured while the device was slow"


def test_fewer_rows_take_no_longer_than_more_that_were_measured_later(model: ModelState, made: InferTimes) -> None:
    made.add(seconds(1), model, 1, (), ms(30))
    assert made.of(seconds(1), model, 1, ()) == ms(30)
    for _ in range(3):
        made.add(seconds(1) + 1, model, 2, (), ms(17))
    assert made.of(seconds(1) + 1, model, 1, ()) <= made.of(seconds(1) + 1, model, 2, ()) < ms(18)
    made.add(seconds(1) + 2, model, 1, (), ms(30))
    assert made.of(seconds(1) + 2, model, 1, ()) >= ms(30), "the latest measurement counts"


def test_rows_between_two_sizes_have_their_own_measurements(model: ModelState, made: InferTimes) -> None:
    for _ in range(3):
        made.add(seconds(1), model, 3, (), ms(25))
    assert of_each(made, seconds(1), model)[1:5] == [ms(17), ms(25), ms(31), ms(59)]


def test_the_passing_of_time_never_raises_a_time(model: ModelState, made: InferTimes) -> None:
    chance = Random(5)
    now = seconds(1)
    for _ in range(100):
        for _ in range(chance.randint(1, 5)):
            now += chance.randrange(ms(300))
            rows = chance.randint(1, 8)
            made.add(now, model, rows, (), round(ms(3 + 7 * rows) * chance.choice((0.9, 1, 1, 1.1, 4))))
        before = of_each(made, now, model)
        assert before == sorted(before)
        for wait in (MAX_AGE, ms(900), ms(1100), seconds(10.5)):
            after = of_each(made, now + wait, model)
            assert after == sorted(after)
            assert all(late <= early for late, early in zip(after, before, strict=True))
            before = after
        now += seconds(11)


def test_the_number_of_shapes_that_are_kept_has_a_limit(model: ModelState) -> None:
    made = InferTimes(next(iter(model.profiles)), 10, max_tables=4)
    for length in range(10):
        for _ in range(3):
            made.add(seconds(1), model, 1, (("x", (length,)),), ms(9))
    assert made.shapes == 4
    assert made.of(seconds(1), model, 1, (("x", (9,)),)) == ms(9)
    assert made.of(seconds(1), model, 1, (("x", (0,)),)) == ms(10)


def test_shapes_in_use_and_models_with_fixed_shapes_are_kept(model: ModelState) -> None:
    made = InferTimes(next(iter(model.profiles)), 10, max_tables=4)
    used = (("x", (1000,)),)
    for key in ((), used):
        for _ in range(3):
            made.add(seconds(1), model, 1, key, ms(9))
    for length in range(10):
        made.of(seconds(1), model, 1, (("x", (length,)),))
        assert made.of(seconds(1), model, 1, used) == ms(9)
    assert made.of(seconds(1), model, 1, ()) == ms(9)
    assert made.shapes == 4


@pytest.fixture
def shaped(model: ModelState) -> ModelState:
    """A model that was measured with an input of 100 elements."""
    (kind,) = model.profiles
    model.profiles[kind] = replace(model.profiles[kind], input_shapes=((4, 25),))
    return model


LARGER = (("x", (4, 75)),)


def test_a_larger_shape_starts_from_the_measured_one_scaled_by_its_elements_with_a_margin(
    shaped: ModelState, made: InferTimes
) -> None:
    assert UNKNOWN_MARGIN == 2
    assert made.of(0, shaped, 1, LARGER) == ms(10) * 3 * 2
    assert made.of(0, shaped, 8, LARGER) == ms(59) * 3 * 2


@pytest.mark.parametrize("shape", [(4, 25), (25, 4), (1, 1), (0, 7)])
def test_a_shape_that_is_not_larger_starts_from_the_measured_time(
    shaped: ModelState, made: InferTimes, shape: tuple[int, ...]
) -> None:
    assert made.of(0, shaped, 1, (("x", shape),)) == ms(10)


def test_the_first_measurement_of_a_shape_replaces_the_guess_for_all_rows(shaped: ModelState, made: InferTimes) -> None:
    made.of(0, shaped, 1, LARGER)
    made.add(ms(50), shaped, 1, LARGER, ms(45))
    assert [made.of(ms(50), shaped, rows, LARGER) for rows in (1, 2, 8)] == [ms(45), ms(76.5), ms(265.5)]
    assert made.of(ms(50), shaped, 1, (("x", (4, 25)),)) == ms(10), "other shapes keep their times"


def test_a_guess_that_refuses_all_requests_relaxes_step_by_step(shaped: ModelState, made: InferTimes) -> None:
    times = [made.of(moment, shaped, 1, LARGER) for moment in (0, FORGOTTEN + MAX_AGE, 2 * FORGOTTEN + MAX_AGE)]
    assert times == [ms(60), ms(30), ms(10)]


def test_a_measurement_near_the_guess_does_not_make_the_device_slow(shaped: ModelState, made: InferTimes) -> None:
    for number in range(20):
        made.add(ms(number), shaped, 1, (("x", (4, 100 + number)),), ms(50))
    assert made.of(ms(20), shaped, 1, (("x", (4, 25)),)) == ms(10)


def test_two_loads_of_a_content_of_which_one_is_not_fully_measured_share_their_times(made: InferTimes) -> None:
    whole, provisional = a_model(*map(ms, SIZES)), a_model(*map(ms, SIZES))
    ((kind, profile),) = whole.profiles.items()
    provisional.profiles[kind] = replace(profile, infer={1: measurement(ms(9))})
    made.of(0, provisional, 1, ())  # creates the table with one size
    assert set(made.by_size(0, whole, ())) == set(SIZES)
    assert made.sizes(whole) == SIZES
