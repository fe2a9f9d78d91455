"""Predictions of starts and durations, and the counts of their errors."""

import pytest

from builders import a_gpu, model_info, pending
from clockwork.messages.actions import Infer, LoadWeights
from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.results import ErrorResult, InferResult, LoadWeightsResult, Timing
from clockwork.messages.status import Status
from clockwork.state import GPUState, ModelState
from clockwork.state.prediction import StartPredictor
from clockwork.units import Nanos, ms, us

A, B = model_info("a"), model_info("b")
RIGHT = ErrorSummary(1)


def leave(gpu: GPUState, action: LoadWeights | Infer, now: Nanos = 0, start: Nanos = 0) -> None:
    """Send the action now."""
    gpu.predict(action, max(now, action.earliest), action.expected_duration, start)


def end(gpu: GPUState, action: LoadWeights | Infer, model: ModelState, begin: Nanos, duration: Nanos) -> None:
    """Let the action succeed."""
    timing = Timing(begin, begin + duration, duration)
    result = (
        InferResult(action.id, (), timing, timing, timing)
        if isinstance(action, Infer)
        else LoadWeightsResult(action.id, timing)
    )
    gpu.settle(action, result)
    gpu.compare(action, result, model)
    gpu.check_invariants()


def fail(gpu: GPUState, action: LoadWeights | Infer, model: ModelState) -> None:
    """Let the action fail."""
    result = ErrorResult(action.id, "", Status.COULD_NOT_START_IN_TIME, "")
    gpu.settle(action, result)
    gpu.compare(action, result, model)
    gpu.check_invariants()


# --- when an action starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "begins"),
    [
        ([(10, 5, 0)], [10]),  # (earliest, expected, start stated by the scheduler)
        ([(10, 5, 12)], [12]),
        ([(10, 5, 0), (10, 5, 0), (10, 5, 0)], [10, 15, 20]),
        ([(10, 5, 12), (10, 5, 0), (10, 5, 0)], [12, 17, 22]),
        ([(10, 5, 0), (30, 5, 0), (10, 5, 0)], [10, 30, 35]),  # a gap
        ([(10, 5, 0), (10, 5, 99)], [10, 99]),
        ([(10, 0, 0), (10, 5, 0), (10, 5, 50)], [10, None, 50]),  # the duration of the first is unknown
    ],
)
def test_an_action_begins_when_those_before_it_have_ended(
    sent: list[tuple[int, int, int]], begins: list[int | None]
) -> None:
    predictor = StartPredictor()
    for number, (earliest, expected, start) in enumerate(sent):
        predictor.sent(number, earliest, expected, start)
    assert [predictor.begin_of(number) for number in range(len(sent))] == begins


@pytest.mark.parametrize(("ended", "begin"), [(15, 20), (13, 18), (40, 45), (None, 15)])
def test_the_end_of_an_action_changes_the_prediction_of_later_ones(ended: int | None, begin: int) -> None:
    predictor = StartPredictor()
    predictor.sent(1, 10, 5)
    predictor.sent(2, 10, 5)
    assert predictor.ended(1, ended) == (10, 5)
    predictor.sent(3, 11, 5)
    assert predictor.begin_of(3) == begin
    assert predictor.begin_of(2) == 15, "a prediction does not change later"


def test_on_an_idle_lane_an_action_starts_at_once() -> None:
    predictor = StartPredictor()
    predictor.sent(1, 10, 0)
    assert predictor.ended(1, 99) == (10, 0)
    predictor.sent(2, 100, 5)
    assert predictor.begin_of(2) == 100
    assert predictor.ended(2, None) == (100, 5)
    assert predictor.ended(2, None) is None
    assert not len(predictor)


def test_an_infer_behind_its_load_begins_when_that_has_ended() -> None:
    state, gpu = a_gpu([A, B], warm=("b",))
    a, b = state.models["a"], state.models["b"]
    load = gpu.load_weights(a, 10, expected=ms(8))
    leave(gpu, load)
    behind = gpu.infer(a, [pending(1, a)], 10, expected=ms(3))
    leave(gpu, behind)
    other = gpu.infer(b, [pending(2, b)], 10, expected=ms(3))
    leave(gpu, other)
    begins = [gpu.predicted_start(action.id) for action in (load, behind, other)]
    assert begins == [10, 10 + ms(8), 10 + ms(11)]
    end(gpu, load, a, 10, ms(8))
    assert gpu.predicted_start(load.id) is None


# --- the errors of predictions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "duration", "start_error", "duration_error", "completion_error", "within"),
    [
        (ms(10), ms(3), 0, 0, 0, 1),
        (ms(11), ms(3), ms(1), 0, ms(1), 1),
        (ms(9), ms(3), -ms(1), 0, -ms(1), 1),
        (ms(10), ms(5), 0, ms(2), ms(2), 0),
        (ms(10), ms(2), 0, -ms(1), -ms(1), 1),
        (ms(11), ms(2), ms(1), -ms(1), 0, 1),
        (ms(9), ms(5), -ms(1), ms(2), ms(1), 0),
    ],
)
def test_over_and_under_predictions_are_counted_for_the_device_and_the_model(
    begin: Nanos,
    duration: Nanos,
    start_error: Nanos,
    duration_error: Nanos,
    completion_error: Nanos,
    within: int,
) -> None:
    state, gpu = a_gpu([A], warm=("a",))
    a = state.models["a"]
    infer = gpu.infer(a, [pending(1, a)], ms(10), expected=ms(3))
    leave(gpu, infer)
    end(gpu, infer, a, begin, duration)
    errors = [of_error(error) for error in (start_error, duration_error, completion_error)]
    summary = {"infer": PredictionSummary(errors[0], errors[1], errors[2], within, 0, ms(3) / duration)}
    assert gpu.predictions.summary() == a.predictions.summary() == state.predictions().summary() == summary


def of_error(error: Nanos) -> ErrorSummary:
    """The summary of one error."""
    size = abs(error)
    if error < 0:
        return ErrorSummary(1, 1, size, size, size)
    return ErrorSummary(1, under=1, under_p50=size, under_p99=size, under_max=size) if error else RIGHT


def test_loads_are_counted_separately() -> None:
    state, gpu = a_gpu([A])
    a = state.models["a"]
    load = gpu.load_weights(a, ms(1), expected=ms(8), start=ms(2))
    leave(gpu, load, start=ms(2))
    end(gpu, load, a, ms(2), ms(8) + us(1))
    late = of_error(us(1))
    assert gpu.predictions.summary() == {"load": PredictionSummary(RIGHT, late, late, 0, 0, ms(8) / (ms(8) + us(1)))}


def test_failed_actions_are_counted_separately() -> None:
    state, gpu = a_gpu([A], warm=("a",))
    a = state.models["a"]
    infer = gpu.infer(a, [pending(1, a)], 10, expected=5)
    leave(gpu, infer)
    fail(gpu, infer, a)
    nothing = ErrorSummary()
    expected = {"infer": PredictionSummary(nothing, nothing, nothing, failed=1)}
    assert gpu.predictions.summary() == a.predictions.summary() == expected


def test_without_an_expected_duration_only_the_start_is_counted() -> None:
    state, gpu = a_gpu([A], warm=("a",))
    a = state.models["a"]
    first, second = (gpu.infer(a, [pending(number, a)], 10) for number in (1, 2))
    leave(gpu, first)
    leave(gpu, second)
    end(gpu, first, a, 10, ms(3))
    end(gpu, second, a, 10 + ms(3), ms(3))  # its start could not be predicted
    assert gpu.predictions.summary()["infer"] == PredictionSummary(RIGHT, ErrorSummary(), ErrorSummary())


def test_evictions_and_actions_that_were_not_sent_are_not_counted() -> None:
    state, gpu = a_gpu([A, B], warm=("a", "b"))
    a = state.models["a"]
    infer = gpu.infer(a, [pending(1, a)], 10, expected=5)
    end(gpu, infer, a, 10, 5)
    evict = gpu.evict_weights("b")
    error = ErrorResult(evict.id, "EvictWeights", Status.ERROR, "")
    gpu.settle(evict, error)
    gpu.compare(evict, error, state.models["b"])
    assert gpu.predictions.summary() == a.predictions.summary() == {}


def test_the_counts_of_lost_devices_are_kept() -> None:
    state, gpu = a_gpu([A], warm=("a",))
    a = state.models["a"]
    infer = gpu.infer(a, [pending(1, a)], 10, expected=5)
    leave(gpu, infer)
    end(gpu, infer, a, 10, 5)
    before = state.predictions().summary()
    state.depart("w0")
    assert not state.workers
    assert state.predictions().summary() == before
    assert before["infer"].start == RIGHT


def test_the_counts_of_many_models_take_little_memory() -> None:
    state, gpu = a_gpu([A], warm=("a",))
    a = state.models["a"]
    for number in range(3000):
        infer = gpu.infer(a, [pending(number, a)], ms(10), expected=ms(3))
        leave(gpu, infer)
        end(gpu, infer, a, ms(10) + number * us(100), ms(3) + (number - 1500) * us(1))
    ((_, errors),) = a.predictions
    histograms = [side for it in (errors.start, errors.duration, errors.completion) for side in (it.over, it.under)]
    assert all(len(histogram.buckets) <= 150 for histogram in histograms)
