"""The scheduler ``edf``: each sentence of its module's docstring.

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
from scheduling.harness import SchedulerHarness

FREE = (TensorInfo("x", Datatype.FP32, (-1, -1)),)


def running(state: ClockworkState) -> SchedulerHarness:
    return SchedulerHarness(state, EdfScheduler())


def busy(*models: str, **fields: object) -> SchedulerHarness:
    """Return one device that has the models and executes a request for ``a``, so that new requests wait."""
    infos = [model_info(name, **fields) for name in models]  # type: ignore[arg-type]
    device = running(a_state(infos, warm=models))
    assert device.infer("a") == ["w0/gpu0 Infer r1"]
    return device


def slow(device: SchedulerHarness, model: str) -> None:
    """Set the time of the model to 90 ms."""
    device.state.models[model].profiles[KIND] = ModelProfile(measurement(ms(8)), {1: measurement(ms(90))})


def test_the_most_urgent_request_goes_first_and_equal_deadlines_in_order_of_arrival() -> None:
    device = busy("a", "b", batchable=False)
    for slo in (80, 50, 20, 50):
        assert device.infer("b", slo=ms(slo)) == []
    assert [device.done() for _ in range(4)] == [[f"w0/gpu0 Infer r{i}"] for i in (4, 3, 5, 2)]


def test_a_batch_has_the_most_urgent_requests_of_one_model_and_shape() -> None:
    device = busy("a", "b", inputs=FREE)
    for model, slo, length in [("b", 40, 8), ("a", 50, 8), ("b", 60, 16), ("b", 70, 8), ("b", 30, 8)]:
        device.infer(model, slo=ms(slo), length=length)
    assert device.done() == ["w0/gpu0 Infer r6 r2 r5"]
    assert [device.done(), device.done()] == [["w0/gpu0 Infer r3"], ["w0/gpu0 Infer r4"]]


@pytest.mark.parametrize(("slo", "batch"), [(7, "r2 r3 r4 r5"), (6, "r2 r3"), (5, "r2 r3"), (4, "r2")])
def test_a_batch_grows_as_long_as_its_most_urgent_request_is_in_time(slo: int, batch: str) -> None:
    device = busy("a")
    for deadline in (slo, 100, 100, 100, 100):
        device.infer("a", slo=ms(deadline))
    assert device.done() == [f"w0/gpu0 Infer {batch}"]
    action = device.sent[0].action
    assert isinstance(action, Infer)
    assert action.latest == ms(slo)


def test_a_request_that_no_device_can_execute_in_time_is_dropped_on_arrival() -> None:
    device = running(a_state([model_info("a")], warm=("a",)))
    assert device.infer("a", slo=ms(3) + MARGIN - 1) == ["r1 CONTROLLER_COULD_NOT_START_IN_TIME"]
    assert device.infer("a", slo=ms(3) + MARGIN) == ["w0/gpu0 Infer r2"]


def test_a_waiting_request_is_dropped_when_it_can_no_longer_be_in_time() -> None:
    device = busy("a")
    device.infer("a", slo=ms(20))
    request = device.requests[2]
    assert device.wake() == ["r2 CONTROLLER_COULD_NOT_START_IN_TIME"]
    assert device.now == ms(16) + 1, "3 ms of Infer and 1 ms of margin before the deadline"
    assert device.scheduler.next_wakeup() is None
    assert request.deadline == ms(20)


def test_a_long_request_is_dropped_behind_more_urgent_ones() -> None:
    device = busy("a", "long")
    slow(device, "long")
    device.infer("a", slo=ms(100))
    device.infer("long", slo=ms(101))
    assert device.wake() == ["r3 CONTROLLER_COULD_NOT_START_IN_TIME"]
    assert device.now == ms(10) + 1
    assert device.done() == ["w0/gpu0 Infer r2"]


def test_a_drop_has_the_predicted_completion() -> None:
    device = busy("a")
    request = device.infer("a", slo=ms(20)) or device.requests[2]
    device.now = ms(17)
    (answer,) = device.scheduler.wake(device.now)
    assert isinstance(answer, Answer)
    assert answer.message == "predicted completion is 1 ms past the deadline"
    assert answer.predicted == ms(21)
    assert request is device.requests[2]


def test_a_request_is_not_sent_to_a_device_that_is_too_slow_for_it() -> None:
    state = a_state([model_info("a")], workers=2, warm=("a",))
    for gpu in state.workers["w0"].gpus:
        gpu.kind = "slow"
    state.models["a"].profiles["slow"] = ModelProfile(measurement(ms(8)), {1: measurement(ms(30))})
    fleet = running(state)
    assert fleet.infer("a", slo=ms(20)) == ["w1/gpu0 Infer r1"]
    assert fleet.infer("a", slo=ms(20)) == []
    assert fleet.infer("a", slo=ms(40)) == ["w0/gpu0 Infer r3"]


def test_a_model_that_no_device_has_is_loaded_on_a_device_with_free_memory() -> None:
    fleet = running(a_state([model_info(name) for name in "abc"], gpus=2, pages=2, warm=("a", "b")))
    assert fleet.infer("c") == ["w0/gpu0 EvictWeights a", "w0/gpu0 LoadWeights c"]
    assert fleet.infer("c") == [], "the model is being loaded"
    assert fleet.infer("a") == ["w0/gpu1 LoadWeights a"], "a device loads one model at a time"
    fleet.sent.pop(0)
    assert fleet.done() == ["w0/gpu0 Infer r1 r2"]
    assert fleet.done() == ["w0/gpu1 Infer r3"]


def test_a_request_for_a_warm_model_passes_one_whose_model_is_being_loaded() -> None:
    device = running(a_state([model_info("a"), model_info("b")], warm=("a",)))
    assert device.infer("b", slo=ms(50)) == ["w0/gpu0 LoadWeights b"]
    assert device.infer("a", slo=ms(90)) == ["w0/gpu0 Infer r2"]


def test_a_cancelled_request_is_neither_sent_nor_dropped() -> None:
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
def test_requests_of_a_failed_infer_are_answered_and_the_device_continues(status: Status, answer: str) -> None:
    device = busy("a")
    device.infer("a")
    assert device.done(status) == [f"r1 {answer}", "w0/gpu0 Infer r2"]


def test_a_failed_load_fails_only_the_requests_that_wait_for_it() -> None:
    device = running(a_state([model_info(name) for name in "ab"]))
    for model in "aba":
        device.infer(model)
    assert device.done(Status.RUNTIME_ERROR) == ["r1 ERROR", "r3 ERROR", "w0/gpu0 LoadWeights b"]


def test_a_device_of_a_kind_on_which_the_model_was_not_measured_is_not_used() -> None:
    state = a_state([model_info("a")], warm=("a",))
    state.models["a"].profiles = {"another kind": next(iter(state.models["a"].profiles.values()))}
    assert running(state).infer("a") == ["r1 SKIPPED_BY_CONTROLLER"]


def test_a_model_that_no_device_can_hold_is_refused() -> None:
    device = running(a_state([model_info("big", pages=5)]))
    assert device.infer("big") == ["r1 SKIPPED_BY_CONTROLLER"]


def test_nothing_is_sent_to_the_devices_of_a_lost_worker() -> None:
    fleet = running(a_state([model_info("a")], workers=2, gpus=2, warm=("a",)))
    assert [fleet.infer("a"), fleet.infer("a")] == [["w0/gpu0 Infer r1"], ["w1/gpu0 Infer r2"]]
    assert fleet.infer("a", slo=ms(90)) == []
    assert fleet.lose("w0") == []
    assert fleet.done() == ["w1/gpu0 Infer r3 r1"]


def test_a_model_that_a_lost_worker_was_loading_is_loaded_elsewhere() -> None:
    fleet = running(a_state([model_info("a")], workers=2))
    assert fleet.infer("a") == ["w0/gpu0 LoadWeights a"]
    assert fleet.lose("w0") == ["w1/gpu0 LoadWeights a"]


def test_queued_requests_wait_for_a_worker_if_none_is_left() -> None:
    state = a_state([model_info("a")], workers=2, warm=("a",))
    late = state.workers.pop("w1")
    fleet = running(state)
    fleet.infer("a")
    assert fleet.lose("w0") == []
    state.workers["w1"] = late
    assert fleet._say(fleet.scheduler.worker_joined(0, late)) == ["w1/gpu0 Infer r1"]
