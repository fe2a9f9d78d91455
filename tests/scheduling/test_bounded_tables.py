"""Tables whose keys are chosen by clients keep their limits."""

import tracemalloc
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from builders import a_state, infer_request, model_info
from clockwork.controller.config import ControllerConfig
from clockwork.controller.serving import Serving
from clockwork.messages.actions import Infer
from clockwork.messages.requests import InferResponse
from clockwork.messages.results import InferOutput, InferResult, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, spec
from clockwork.scheduling.clockwork import ClockworkConfig, ClockworkScheduler
from clockwork.scheduling.clockwork.refusals import MAX_RETRY_TIMES
from clockwork.scheduling.clockwork.times import MAX_TABLES
from clockwork.state import ClockworkState
from clockwork.units import ms, us
from effort import scaled
from scheduling.harness import SchedulerHarness

MANY = scaled(20_000)
MAX_GROWTH = 50 * (MANY // 4)
"""Limit of the bytes that the last quarter of the requests adds. 50 bytes each is less than any table entry needs."""

FREE = model_info(inputs=(TensorInfo("x", "FP32", (-1, -1)),))


def measured_state() -> ClockworkState:
    """Return a state whose model was measured with a shape larger than those of all requests."""
    state = a_state([FREE], warm=("a",))
    profiles = state.models["a"].profiles
    for kind, profile in profiles.items():
        profiles[kind] = replace(profile, input_shapes=((2 * MANY,),))
    return state


def growth(once: Callable[[int], object]) -> int:
    """Return the bytes that the last quarter of the calls adds. All calls are traced, because Python reuses objects."""
    tracemalloc.start()
    try:
        for number in range(MANY * 3 // 4):
            once(number)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(MANY * 3 // 4, MANY):
            once(number)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def answer(running: SchedulerHarness) -> None:
    """Let the Infer outstanding succeed."""
    send = running.sent.pop(0)
    action = send.action
    assert isinstance(action, Infer)
    gpu = running.state.workers[send.worker_id].gpu(action.gpu)
    timing = Timing(running.now, running.now + ms(3), ms(3))
    outputs = tuple(InferOutput(share.request_id, ()) for share in action.inputs)
    result = InferResult(action.id, outputs, timing, timing, timing)
    for share in action.inputs:
        running.requests[share.request_id].over = True
    running.now += ms(4)
    assert gpu.settle(action, result)
    assert running.scheduler.result(running.now, gpu, action, result) == []


@pytest.mark.parametrize(("slo", "status"), [(ms(100), "Infer"), (us(100), "CONTROLLER_COULD_NOT_START_IN_TIME")])
def test_the_scheduler_s_memory_does_not_grow_with_the_number_of_shapes(slo: int, status: str) -> None:
    scheduler = ClockworkScheduler(ClockworkConfig(preload=False))
    running = SchedulerHarness(measured_state(), scheduler)
    lines: list[str] = []

    def once(number: int) -> None:
        lines[:] = running.infer("a", slo=slo, length=number + 1)
        while not lines:
            lines[:] = running.wake()
        while running.sent:
            answer(running)
        running.requests.clear()

    added = growth(once)
    (plan,) = scheduler._weights.plans
    assert status in lines[0]
    assert plan.device.times.shapes == MAX_TABLES
    assert scheduler._refusals.kept <= MAX_RETRY_TIMES
    assert added < MAX_GROWTH


def test_the_number_of_retry_times_has_a_limit() -> None:
    """The requests are refused with a retry time, because an idle device could have served them."""
    scheduler = ClockworkScheduler(ClockworkConfig(preload=False))
    running = SchedulerHarness(measured_state(), scheduler)
    running.infer("a", slo=ms(1000))
    for number in range(MAX_RETRY_TIMES + 100):
        running.infer("a", slo=ms(4), length=number + 3)
    running.wake()
    assert scheduler._refusals.kept == MAX_RETRY_TIMES


def test_the_controller_s_memory_does_not_grow_with_unknown_model_names() -> None:
    serving = Serving(a_state([FREE]), ClockworkScheduler(), ControllerConfig())
    responses: list[InferResponse] = []

    def once(number: int) -> None:
        request = infer_request(number, f"model-{number}", inputs=(spec(f"x{number}", "FP32", (1, 1)),))
        (respond,) = serving.infer(number, 1, request, b"1234")
        assert isinstance(respond.response, InferResponse)  # type: ignore[union-attr]
        responses[:] = [respond.response]  # type: ignore[union-attr]

    assert growth(once) < MAX_GROWTH
    assert responses[0].status == Status.UNKNOWN_MODEL
    assert serving.tally.without_model() == {"UNKNOWN_MODEL": MANY}
    assert serving.pending == 0


def test_the_controller_s_memory_does_not_grow_with_invalid_inputs() -> None:
    serving = Serving(a_state([FREE]), ClockworkScheduler(), ControllerConfig())
    serving.start(0)

    def once(number: int) -> None:
        request = infer_request(number, "a", inputs=(spec(f"x{number}", "FP32", (1, number + 1)),))
        refused = serving.refusing.refuse_early(0, 1, request)
        assert refused is not None
        assert isinstance(refused.response, InferResponse)
        assert refused.response.status == Status.INVALID_REQUEST

    assert growth(once) < MAX_GROWTH
    assert serving.tally.of("a").named() == {"INVALID_REQUEST": MANY}
