"""The counters of models."""

from clockwork.controller.tally import Counts, Tally
from clockwork.messages import counts
from clockwork.messages.actions import EvictWeights, Infer, InferInput, LoadWeights
from clockwork.messages.counts import LATENCY_BOUNDS, BatchCounts
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import (
    ErrorResult,
    EvictWeightsResult,
    InferResult,
    LoadWeightsResult,
    Timing,
)
from clockwork.messages.status import Status
from clockwork.state import ClockworkState
from clockwork.units import SECOND, ms, us


def took(duration: int) -> Timing:
    return Timing(1, 1 + duration, duration)


def infer(*rows: int) -> Infer:
    return Infer(1, 0, "m", tuple(InferInput(number, size, ()) for number, size in enumerate(rows)))


DONE = InferResult(1, (), took(10), took(200), took(3))


def test_all_counters_start_at_zero() -> None:
    found = Counts().summary()
    assert (found.answers, found.rows, found.by_batch_size, sum(found.latencies)) == ({}, 0, (), 0)
    assert Tally(ClockworkState()).without_model() == {}


def test_responses_are_counted_by_status() -> None:
    counted = Counts()
    for status, total in (
        (Status.SUCCESS, ms(5)),
        (Status.SUCCESS, ms(7)),
        (Status.TIMEOUT, ms(100)),
        (Status.SKIPPED_BY_CONTROLLER, 3),
        (Status.CONTROLLER_COULD_NOT_START_IN_TIME, 4),
        (Status.RUNTIME_ERROR, 5),
        (Status.INVALID_REQUEST, 0),
        (Status.CANCELLED, 6),
    ):
        counted.answered(1, status, total)
    answers = counted.named()
    assert (counts.in_time(answers), counts.late(answers), counts.refused(answers)) == (2, 1, 2)
    assert (counts.failed(answers), counts.cancelled(answers)) == (2, 1)
    assert answers["SKIPPED_BY_CONTROLLER"] == answers["CONTROLLER_COULD_NOT_START_IN_TIME"] == 1
    assert (counted.succeeded_ns, counted.failed_ns) == (ms(12), ms(100) + 18)


def test_a_status_that_a_scheduler_makes_up_counts_as_an_error() -> None:
    counted = Counts()
    for status in (1, 77_777, 88_888):
        counted.answered(1, status, 0)
    assert counted.named() == {"ERROR": 3}


def test_a_latency_equal_to_a_bound_counts_below_it() -> None:
    counted = Counts()
    for total in (0, us(500), us(500) + 1, ms(100), 10 * SECOND, 10 * SECOND + 1, 100 * SECOND):
        counted.answered(1, Status.SUCCESS, total)
    counted.answered(1, Status.TIMEOUT, 1)
    assert counted.latencies[:2] == [2, 1]
    assert counted.latencies[LATENCY_BOUNDS.index(ms(100))] == 1
    assert counted.latencies[-2:] == [1, 2]
    assert sum(counted.latencies) == 7
    assert list(LATENCY_BOUNDS) == sorted(set(LATENCY_BOUNDS))


def test_a_batch_counts_once_for_itself_and_once_for_each_request() -> None:
    counted = Counts()
    counted.acted(infer(1, 2, 1), DONE)
    for _ in range(3):
        counted.delivered(ms(2), RequestTiming(ms(1), 50, 200, 4), DONE)
    counted.acted(infer(1), DONE)
    counted.acted(infer(4), DONE)
    found = counted.summary()
    assert (found.rows, found.batches, found.last_success) == (9, 3, ms(2))
    assert (found.queue_ns, found.input_ns, found.exec_ns, found.output_ns) == (150, 30, 600, 9)
    assert found.by_batch_size == (BatchCounts(1, 1, 10, 200, 3), BatchCounts(4, 2, 20, 400, 6))


def test_successful_loads_and_evictions_are_counted_and_failed_ones_are_not() -> None:
    counted = Counts()
    load, evict = LoadWeights(1, 0, "m"), EvictWeights(2, 0, "m")
    counted.acted(load, LoadWeightsResult(1, took(ms(8))))
    counted.acted(evict, EvictWeightsResult(2, took(1)))
    for action in (load, evict, infer(1)):
        counted.acted(action, ErrorResult(1, type(action).__name__, Status.ERROR, "no"))
    found = counted.summary()
    assert (found.loads, found.load_ns, found.evictions, found.batches) == (1, ms(8), 1, 0)


def test_models_are_counted_separately_and_unknown_names_together() -> None:
    tally = Tally(ClockworkState())
    tally.of("a").answered(1, Status.SUCCESS, 1)
    for _ in range(3):
        tally.count_without_model(Status.UNKNOWN_MODEL)
    assert tally.of("a").named() == {"SUCCESS": 1}
    assert tally.of("b").named() == {}
    assert tally.without_model() == {"UNKNOWN_MODEL": 3}
