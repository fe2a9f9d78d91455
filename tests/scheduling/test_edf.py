"""Earliest deadline first: what its page of the manual says, sentence by sentence.

Infer takes 3 ms, and 1 ms more for each further row; MARGIN is 1 ms.
"""

import pytest

from builders import KIND, a_state, measurement, model_info
from clockwork.messages.actions import Infer
from clockwork.messages.commands import Answer
from clockwork.messages.profile import ModelProfile
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.scheduling.edf import MARGIN, EdfScheduler
from clockwork.state import ClockworkState
from clockwork.units import ms
from scheduling.running import Running

FREE = (TensorInfo("x", Datatype.FP32, (-1, -1)),)


def running(state: ClockworkState) -> Running:
    return Running(state, EdfScheduler())


def busy(*models: str, **fields: object) -> Running:
    """One device that has the models, and executes one of ``a``: what is asked now waits."""
    infos = [model_info(name, **fields) for name in models]  # type: ignore[arg-type]
    device = running(a_state(infos, warm=models))
    assert device.infer("a") == ["w0/gpu0 Infer r1"]
    return device


def slow(device: Running, model: str) -> None:
    """The model takes 90 ms."""
    device.state.models[model].profiles[KIND] = ModelProfile(measurement(ms(8)), {1: measurement(ms(90))})


def test_the_most_urgent_goes_first_and_ties_as_they_came() -> None:
    device = busy("a", "b", batchable=False)
    for slo in (80, 50, 20, 50):
        assert device.infer("b", slo=ms(slo)) == []
    assert [device.done() for _ in range(4)] == [[f"w0/gpu0 Infer r{i}"] for i in (4, 3, 5, 2)]


def test_a_batch_has_the_most_urgent_of_the_model_and_of_the_shape() -> None:
    device = busy("a", "b", inputs=FREE)
    for model, slo, length in [("b", 40, 8), ("a", 50, 8), ("b", 60, 16), ("b", 70, 8), ("b", 30, 8)]:
        device.infer(model, slo=ms(slo), length=length)
    assert device.done() == ["w0/gpu0 Infer r6 r2 r5"]
    assert [device.done(), device.done()] == [["w0/gpu0 Infer r3"], ["w0/gpu0 Infer r4"]]


@pytest.mark.parametrize(("slo", "batch"), [(7, "r2 r3 r4 r5"), (6, "r2 r3"), (5, "r2 r3"), (4, "r2")])
def test_a_batch_grows_as_long_as_the_most_urgent_is_in_time(slo: int, batch: str) -> None:
    device = busy("a")
    for deadline in (slo, 100, 100, 100, 100):
        device.infer("a", slo=ms(deadline))
    assert device.done() == [f"w0/gpu0 Infer {batch}"]
    action = device.sent[0].action
    assert isinstance(action, Infer)
    assert action.latest == ms(slo)


def test_one_that_no_device_can_do_in_time_is_dropped_on_arrival() -> None:
    device = running(a_state([model_info("a")], warm=("a",)))
    assert device.infer("a", slo=ms(3) + MARGIN - 1) == ["r1 CONTROLLER_COULD_NOT_START_IN_TIME"]
    assert device.infer("a", slo=ms(3) + MARGIN) == ["w0/gpu0 Infer r2"]


def test_one_that_waits_is_dropped_at_the_moment_when_it_can_no_longer_be_in_time() -> None:
    device = busy("a")
    device.infer("a", slo=ms(20))
    request = device.requests[2]
    assert device.wake() == ["r2 CONTROLLER_COULD_NOT_START_IN_TIME"]
    assert device.now == ms(16) + 1, "3 ms of Infer and 1 ms of margin before the deadline"
    assert device.scheduler.next_wakeup() is None
    assert request.deadline == ms(20)


def test_a_long_one_is_dropped_behind_more_urgent_ones() -> None:
    device = busy("a", "long")
    slow(device, "long")
    device.infer("a", slo=ms(100))
    device.infer("long", slo=ms(101))
    assert device.wake() == ["r3 CONTROLLER_COULD_NOT_START_IN_TIME"]
    assert device.now == ms(10) + 1
    assert device.done() == ["w0/gpu0 Infer r2"]


def test_a_drop_says_when_it_would_have_been_done() -> None:
    device = busy("a")
    request = device.infer("a", slo=ms(20)) or device.requests[2]
    device.now = ms(17)
    (answer,) = device.scheduler.wake(device.now)
    assert isinstance(answer, Answer)
    assert answer.message == "it would be done 1.0 ms after its deadline"
    assert answer.predicted == ms(21)
    assert request is device.requests[2]


def test_a_device_that_is_too_slow_for_a_request_is_not_given_it() -> None:
    state = a_state([model_info("a")], workers=2, warm=("a",))
    for gpu in state.workers["w0"].gpus:
        gpu.kind = "slow"
    state.models["a"].profiles["slow"] = ModelProfile(measurement(ms(8)), {1: measurement(ms(30))})
    fleet = running(state)
    assert fleet.infer("a", slo=ms(20)) == ["w1/gpu0 Infer r1"]
    assert fleet.infer("a", slo=ms(20)) == []
    assert fleet.infer("a", slo=ms(40)) == ["w0/gpu0 Infer r3"]


def test_one_whose_weights_are_nowhere_has_them_loaded_where_there_is_room() -> None:
    fleet = running(a_state([model_info(name) for name in "abc"], gpus=2, pages=2, warm=("a", "b")))
    assert fleet.infer("c") == ["w0/gpu0 EvictWeights a", "w0/gpu0 LoadWeights c"]
    assert fleet.infer("c") == [], "it is on its way"
    assert fleet.infer("a") == ["w0/gpu1 LoadWeights a"], "one load at a time on each device"
    fleet.sent.pop(0)
    assert fleet.done() == ["w0/gpu0 Infer r1 r2"]
    assert fleet.done() == ["w0/gpu1 Infer r3"]


def test_one_whose_weights_are_there_passes_one_that_is_loaded() -> None:
    device = running(a_state([model_info("a"), model_info("b")], warm=("a",)))
    assert device.infer("b", slo=ms(50)) == ["w0/gpu0 LoadWeights b"]
    assert device.infer("a", slo=ms(90)) == ["w0/gpu0 Infer r2"]


def test_one_that_was_cancelled_does_not_go_and_is_not_dropped() -> None:
    device = busy("a")
    device.infer("a", slo=ms(20))
    assert device.cancel(2) == []
    assert device.scheduler.next_wakeup() is None
    device.cancel(1)
    assert device.done(Status.RUNTIME_ERROR) == []


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (Status.RUNTIME_ERROR, "ERROR"),
        (Status.INVALID_INPUT, "INVALID_REQUEST"),
        (Status.COULD_NOT_START_IN_TIME, "CONTROLLER_COULD_NOT_START_IN_TIME"),
    ],
)
def test_an_infer_that_fails_is_answered_and_the_device_goes_on(status: Status, answer: str) -> None:
    device = busy("a")
    device.infer("a")
    assert device.done(status) == [f"r1 {answer}", "w0/gpu0 Infer r2"]


def test_a_load_that_fails_fails_those_that_wait_for_it_and_nobody_else() -> None:
    device = running(a_state([model_info(name) for name in "ab"]))
    for model in "aba":
        device.infer(model)
    assert device.done(Status.RUNTIME_ERROR) == ["r1 ERROR", "r3 ERROR", "w0/gpu0 LoadWeights b"]


def test_what_no_device_can_hold_is_refused() -> None:
    device = running(a_state([model_info("big", pages=5)]))
    assert device.infer("big") == ["r1 SKIPPED_BY_CONTROLLER"]


def test_when_a_worker_is_lost_nothing_is_sent_to_its_other_devices() -> None:
    fleet = running(a_state([model_info("a")], workers=2, gpus=2, warm=("a",)))
    assert [fleet.infer("a"), fleet.infer("a")] == [["w0/gpu0 Infer r1"], ["w1/gpu0 Infer r2"]]
    assert fleet.infer("a", slo=ms(90)) == []
    assert fleet.lose("w0") == []
    assert fleet.done() == ["w1/gpu0 Infer r3 r1"]


def test_what_a_lost_worker_was_loading_is_loaded_elsewhere() -> None:
    fleet = running(a_state([model_info("a")], workers=2))
    assert fleet.infer("a") == ["w0/gpu0 LoadWeights a"]
    assert fleet.lose("w0") == ["w1/gpu0 LoadWeights a"]


def test_with_no_worker_left_those_queued_wait_for_one_to_come() -> None:
    state = a_state([model_info("a")], workers=2, warm=("a",))
    late = state.workers.pop("w1")
    fleet = running(state)
    fleet.infer("a")
    assert fleet.lose("w0") == []
    state.workers["w1"] = late
    assert fleet._say(fleet.scheduler.worker_joined(0, late)) == ["w1/gpu0 Infer r1"]
