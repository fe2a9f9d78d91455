"""The scheduler ``simple``: each sentence of its module's docstring. Devices are ``w0/gpu0``, ..."""

import pytest

from builders import a_state, model_info
from clockwork.messages.actions import Infer
from clockwork.messages.status import Status
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import ClockworkState
from clockwork.units import ms
from scheduling.harness import SchedulerHarness


def running_in(state: ClockworkState) -> SchedulerHarness:
    return SchedulerHarness(state, SimpleScheduler())


def test_devices_with_the_same_model_serve_its_requests_in_turn() -> None:
    running = running_in(a_state([model_info("a"), model_info("b")], workers=3, warm=("a", "b")))
    asked = ["a", "a", "b", "a", "a", "b"]
    assert [running.infer(model) for model in asked] == [
        ["w0/gpu0 Infer r1"],
        ["w1/gpu0 Infer r2"],
        ["w0/gpu0 Infer r3"],
        ["w2/gpu0 Infer r4"],
        ["w0/gpu0 Infer r5"],
        ["w1/gpu0 Infer r6"],
    ]


def test_a_model_that_no_device_has_is_loaded_on_the_next_device_in_turn() -> None:
    running = running_in(a_state([model_info(name) for name in "abc"], gpus=2))
    assert [running.infer(model) for model in "abc"] == [
        ["w0/gpu0 LoadWeights a"],
        ["w0/gpu1 LoadWeights b"],
        [],  # gpu0's queue is first in, first out, and a is still being loaded
    ]
    assert running.done() == ["w0/gpu0 Infer r1", "w0/gpu0 LoadWeights c"]


def test_a_request_waits_for_weights_that_are_being_loaded() -> None:
    running = running_in(a_state([model_info("a")], gpus=2))
    assert [running.infer("a") for _ in range(2)] == [["w0/gpu0 LoadWeights a"], []]
    assert running.done() == ["w0/gpu0 Infer r1", "w0/gpu0 Infer r2"]


def test_a_device_without_free_memory_evicts_its_least_recently_used_models() -> None:
    models = [model_info("a"), model_info("b"), model_info("c"), model_info("big", pages=3)]
    running = running_in(a_state(models, warm=("a", "b", "c")))
    running.infer("a")
    running.done()
    assert running.infer("big") == ["w0/gpu0 EvictWeights b", "w0/gpu0 EvictWeights c", "w0/gpu0 LoadWeights big"]


def test_models_in_use_are_not_evicted() -> None:
    models = [model_info("a", pages=2), model_info("b", pages=2), model_info("c", pages=2)]
    running = running_in(a_state(models, warm=("a", "b")))
    assert running.infer("a") == ["w0/gpu0 Infer r1"]
    assert running.infer("b") == ["w0/gpu0 Infer r2"]
    assert running.infer("c") == []
    assert running.done() == ["w0/gpu0 EvictWeights a", "w0/gpu0 LoadWeights c"]


def test_at_most_three_requests_are_outstanding_on_a_device_first_in_first_out() -> None:
    running = running_in(a_state([model_info("a"), model_info("b")], warm=("a", "b")))
    assert [running.infer(model) for model in "ababa"] == [
        ["w0/gpu0 Infer r1"],
        ["w0/gpu0 Infer r2"],
        ["w0/gpu0 Infer r3"],
        [],
        [],
    ]
    assert running.done() == ["w0/gpu0 Infer r4"]
    assert running.done() == ["w0/gpu0 Infer r5"]


def test_an_infer_may_start_until_the_deadline_of_its_request() -> None:
    running = running_in(a_state([model_info("a")], warm=("a",)))
    running.infer("a", slo=ms(7))
    action = running.sent[0].action
    assert isinstance(action, Infer)
    assert (action.earliest, action.latest, action.expected_duration) == (0, ms(7), ms(3))


def test_requests_that_are_over_are_skipped() -> None:
    running = running_in(a_state([model_info("a")]))
    for _ in range(3):
        running.infer("a")
    running.requests[1].over = True
    assert running.done() == ["w0/gpu0 Infer r2", "w0/gpu0 Infer r3"]
    running.requests[2].over = True
    assert running.done(Status.COULD_NOT_START_IN_TIME) == []
    assert running.done(Status.COULD_NOT_START_IN_TIME) == ["r3 CONTROLLER_COULD_NOT_START_IN_TIME"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (Status.RUNTIME_ERROR, ["r1 ERROR"]),
        (Status.INVALID_INPUT, ["r1 INVALID_REQUEST"]),
        (Status.COULD_NOT_START_IN_TIME, ["r1 CONTROLLER_COULD_NOT_START_IN_TIME"]),
        (None, []),
    ],
)
def test_the_request_of_a_failed_infer_is_answered(status: Status | None, answer: list[str]) -> None:
    running = running_in(a_state([model_info("a")], warm=("a",)))
    running.infer("a")
    assert running.done(status) == answer


def test_a_failed_load_fails_one_request_and_is_tried_again_for_the_next() -> None:
    running = running_in(a_state([model_info("a")]))
    running.infer("a")
    running.infer("a")
    assert running.done(Status.RUNTIME_ERROR) == ["r1 ERROR", "w0/gpu0 LoadWeights a"]
    running.requests[2].over = True
    assert running.done(Status.RUNTIME_ERROR) == []


def test_a_device_of_a_kind_on_which_the_model_was_not_measured_is_not_used() -> None:
    state = a_state([model_info("a")], warm=("a",))
    state.models["a"].profiles = {"another kind": next(iter(state.models["a"].profiles.values()))}
    assert running_in(state).infer("a") == ["r1 SKIPPED_BY_CONTROLLER"]


def test_a_model_that_no_device_can_hold_is_refused() -> None:
    running = running_in(a_state([model_info("big", pages=5)]))
    assert running.infer("big") == ["r1 SKIPPED_BY_CONTROLLER"]


def test_requests_of_a_lost_worker_go_elsewhere() -> None:
    running = running_in(a_state([model_info("a")], workers=2, warm=("a",)))
    for _ in range(8):
        running.infer("a")
    lost = running.state.workers.pop("w0")
    running.requests[3].over = True
    running.sent = [send for send in running.sent if send.worker_id == "w1"]
    assert running._say(running.scheduler.worker_lost(0, lost)) == []  # w1 has three requests outstanding
    # first its own r8, then those of w0: r1 and r5 were sent, r7 waited, r3 is over
    assert [running.done() for _ in range(4)] == [[f"w1/gpu0 Infer r{i}"] for i in (8, 1, 5, 7)]


def test_a_new_worker_is_used() -> None:
    state = a_state([model_info("a")], workers=2)
    late = state.workers.pop("w1")
    running = running_in(state)
    state.workers["w1"] = late
    assert running.scheduler.worker_joined(0, late) == []
    assert running.infer("a") == ["w0/gpu0 LoadWeights a"]
    assert running._say(running.scheduler.worker_lost(0, state.workers.pop("w0"))) == ["w1/gpu0 LoadWeights a"]
