"""The scheduler ``fifo``: each sentence of its module's docstring."""

import pytest

from builders import a_state, model_info
from clockwork.messages.actions import Infer
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.state import ClockworkState
from clockwork.units import ms
from scheduling.harness import SchedulerHarness

FREE = (TensorInfo("x", Datatype.FP32, (-1, -1)),)


def running(state: ClockworkState) -> SchedulerHarness:
    return SchedulerHarness(state, FifoScheduler())


def full(*models: str, pages: int = 4, **fields: object) -> SchedulerHarness:
    """Return one device that has the models and two Infers of ``a`` outstanding, so that new requests wait."""
    infos = [model_info(name, **fields) for name in models]  # type: ignore[arg-type]
    device = running(a_state(infos, pages=pages, warm=models))
    assert [device.infer("a"), device.infer("a")] == [["w0/gpu0 Infer r1"], ["w0/gpu0 Infer r2"]]
    return device


def test_waiting_requests_are_sent_in_batches_up_to_the_largest_size() -> None:
    device = full("a")
    assert [device.infer("a") for _ in range(6)] == [[]] * 6
    assert device.done() == ["w0/gpu0 Infer r3 r4 r5 r6"]
    assert device.done() == ["w0/gpu0 Infer r7 r8"]


def test_the_size_of_a_batch_is_the_sum_of_the_rows() -> None:
    device = full("a")
    for rows in (3, 2, 1, 1):
        device.infer("a", rows=rows)
    assert device.done() == ["w0/gpu0 Infer r3 r5"]
    assert device.done() == ["w0/gpu0 Infer r4 r6"]


def test_models_take_turns_in_the_order_of_their_first_requests() -> None:
    device = full("a", "b")
    for model in "bab":
        device.infer(model)
    assert device.done() == ["w0/gpu0 Infer r3 r5"]
    assert device.done() == ["w0/gpu0 Infer r4"]


def test_a_batch_has_requests_of_one_shape() -> None:
    device = full("a", inputs=FREE)
    for length in (8, 16, 8, 16):
        device.infer("a", length=length)
    assert device.done() == ["w0/gpu0 Infer r3 r5"]
    assert device.done() == ["w0/gpu0 Infer r4 r6"]


def test_requests_for_an_unbatchable_model_are_sent_one_at_a_time() -> None:
    device = full("a", batchable=False)
    device.infer("a")
    device.infer("a")
    assert [device.done(), device.done()] == [["w0/gpu0 Infer r3"], ["w0/gpu0 Infer r4"]]


def test_no_request_is_refused_for_being_late() -> None:
    device = full("a")
    assert device.infer("a", slo=1) == []
    device.infer("a", slo=ms(50))
    device.now = ms(40)
    assert device.done() == ["w0/gpu0 Infer r3 r4"]
    action = device.sent[-1].action
    assert isinstance(action, Infer)
    assert (action.latest, action.expected_duration) == (ms(50), ms(4)), "the later deadline counts"


def test_a_cold_model_is_loaded_and_the_least_recently_used_one_evicted() -> None:
    device = running(a_state([model_info(name) for name in "abc"], pages=2, warm=("a", "b")))
    device.infer("a")
    device.done()
    assert device.infer("c") == ["w0/gpu0 EvictWeights b", "w0/gpu0 LoadWeights c"]
    assert device.infer("a") == [], "the first request of the queue still waits"
    device.sent.pop(0)
    assert device.done() == ["w0/gpu0 Infer r2", "w0/gpu0 Infer r3"]


def test_models_in_use_are_not_evicted() -> None:
    device = full("a", pages=1)
    device.state.models["b"] = a_state([model_info("b")]).models["b"]
    next(device.state.gpus()).models["b"] = model_info("b")
    assert device.infer("b") == []
    assert device.done() == []
    assert device.done() == ["w0/gpu0 EvictWeights a", "w0/gpu0 LoadWeights b"]


def test_a_request_goes_to_the_shorter_queue_of_the_devices_with_its_model() -> None:
    fleet = running(a_state([model_info("a")], workers=2, gpus=2, warm=("a",)))
    assert [fleet.infer("a") for _ in range(4)] == [
        ["w0/gpu0 Infer r1"],
        ["w1/gpu0 Infer r2"],
        ["w0/gpu0 Infer r3"],
        ["w1/gpu0 Infer r4"],
    ]


def test_a_cancelled_request_is_not_sent() -> None:
    device = full("a")
    for _ in range(3):
        device.infer("a")
    assert device.cancel(4) == []
    assert device.done() == ["w0/gpu0 Infer r3 r5"]
    device.cancel(3)
    assert device.done() == []
    assert device.done(Status.RUNTIME_ERROR) == ["r5 ERROR"], "the other request was cancelled"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (Status.RUNTIME_ERROR, "ERROR"),
        (Status.INVALID_INPUT, "INVALID_REQUEST"),
        (Status.COULD_NOT_START_IN_TIME, "CONTROLLER_COULD_NOT_START_IN_TIME"),
    ],
)
def test_requests_of_a_failed_infer_are_answered(status: Status, answer: str) -> None:
    device = full("a")
    assert device.done(status) == [f"r1 {answer}"]


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


def test_requests_of_a_lost_worker_go_elsewhere_sent_ones_first() -> None:
    fleet = running(a_state([model_info("a")], workers=2, gpus=2, warm=("a",)))
    for _ in range(6):
        fleet.infer("a")
    assert fleet.lose("w0") == []
    assert fleet.done() == ["w1/gpu0 Infer r6 r1 r3 r5"]
    assert fleet.lose("w1") == [f"r{i} SKIPPED_BY_CONTROLLER" for i in (4, 6, 1, 3, 5)]


def test_a_new_worker_is_used() -> None:
    state = a_state([model_info("a")], workers=2)
    late = state.workers.pop("w1")
    fleet = running(state)
    fleet.lose("w0")
    assert fleet.infer("a") == ["r1 SKIPPED_BY_CONTROLLER"]
    state.workers["w1"] = late
    assert fleet.scheduler.worker_joined(0, late) == []
    assert fleet.infer("a") == ["w1/gpu0 LoadWeights a"]
