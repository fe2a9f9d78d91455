"""An operator evicts weights that requests need, with every policy."""

from collections.abc import Sequence
from typing import Final

import pytest

from builders import infer_request
from clockwork.controller.events import Respond
from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.requests import EvictRequest, EvictResponse, InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.edf import EdfScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import GPUState, Residency
from clockwork.units import Nanos, ms, seconds
from cluster import serving
from fake_worker import FakeWorker, File

FILES: Final = {
    "a.onnx": File(load=ms(8), infer=ms(3)),
    "slow.onnx": File(infer=ms(30), batchable=False),
    "big.onnx": File(load=ms(60)),
}
POLICIES: Final[list[type[Scheduler]]] = [ClockworkScheduler, EdfScheduler, FifoScheduler, SimpleScheduler]


class Story:
    """A cluster with one device that has all weights, and its actions and answers from now on."""

    def __init__(self, policy: type[Scheduler]) -> None:
        self.cluster = serving(policy(), FILES)
        self.ids = 0
        for model in ("a", "slow", "big"):
            self.infer(model, slo=seconds(1))
            self.cluster.run_until(self.cluster.now + ms(200))
        self.start = self.cluster.now
        self.first = len(self.cluster.said)

    def infer(self, model: str, *, slo: Nanos = ms(500)) -> int:
        self.ids += 1
        self.cluster.ask(infer_request(self.ids, model, slo=slo))
        return self.ids

    def evict(self, model: str, *, devices: int = 1) -> None:
        """Evict a model; the request must succeed on ``devices`` devices."""
        self.ids += 1
        self.cluster.ask(EvictRequest(self.ids, model))
        assert self.cluster.answer(self.ids) == EvictResponse(self.ids, Status.SUCCESS, "", devices)

    def pass_time(self, duration: Nanos) -> None:
        self.cluster.run_until(self.cluster.now + duration)

    def lines(self, request: int | None = None) -> list[str]:
        """Return the actions and answers with their times in ms (``11.0 SUCCESS``), or only those of one request."""
        only = None if request is None else self.cluster.asked[1, request]
        lines = []
        for at, command in self.cluster.said[self.first :]:
            what = ""
            if isinstance(command, SendAction) and isinstance(command.action, LoadWeights | EvictWeights | Infer):
                if not isinstance(only, InferRequest) or command.action.model == only.model:
                    what = f"{type(command.action).__name__} {command.action.model}"
            elif isinstance(command, Respond) and isinstance(command.response, InferResponse):
                what = Status(command.response.status).name if request in (None, command.response.id) else ""
            if what:
                lines.append(f"{(at - self.start) / ms(1):.1f} {what}")
        return lines

    def check(self) -> None:
        """Assert that no error was reported, all requests are answered, and the picture of the memory is right."""
        self.pass_time(seconds(5))
        assert self.cluster.reports("ERROR") == []
        self.cluster.check_all_answered()
        self.cluster.check_rest()


ANSWERED_AFTER_A_LOAD: Final = {
    "clockwork": ["0.0 EvictWeights a", "0.0 LoadWeights a", "5.0 Infer a", "11.0 SUCCESS"],
    "edf": ["0.0 EvictWeights a", "0.0 LoadWeights a", "8.0 Infer a", "11.0 SUCCESS"],
    "fifo": ["0.0 EvictWeights a", "0.0 LoadWeights a", "8.0 Infer a", "11.0 SUCCESS"],
    "simple": ["0.0 EvictWeights a", "0.0 LoadWeights a", "8.0 Infer a", "11.0 SUCCESS"],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_that_arrives_before_the_evictions_result_is_served_behind_a_load(policy: type[Scheduler]) -> None:
    story = Story(policy)
    story.evict("a")
    story.infer("a")
    story.check()
    assert story.lines() == ANSWERED_AFTER_A_LOAD[policy.name]


#: A device is busy with three requests, a fourth waits for `a`, and its weights are evicted 2 ms later.
WAITED_MEANWHILE: Final = {
    "clockwork": ["2.0 EvictWeights a", "2.0 LoadWeights a", "87.0 Infer a", "93.0 SUCCESS"],
    "edf": ["2.0 EvictWeights a", "2.0 LoadWeights a", "90.0 Infer a", "93.0 SUCCESS"],
    "fifo": ["2.0 EvictWeights a", "60.0 LoadWeights a", "68.0 Infer a", "93.0 SUCCESS"],
    "simple": ["2.0 EvictWeights a", "30.0 LoadWeights a", "38.0 Infer a", "93.0 SUCCESS"],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_that_waits_when_its_weights_are_evicted_is_served_behind_a_load(policy: type[Scheduler]) -> None:
    story = Story(policy)
    for _ in range(3):
        story.infer("slow")
    story.pass_time(ms(1))
    waiting = story.infer("a")
    story.pass_time(ms(1))
    story.evict("a")
    story.check()
    assert story.lines(waiting) == WAITED_MEANWHILE[policy.name]


RELOADED_AFTER: Final = ["100.0 LoadWeights a", "108.0 Infer a", "111.0 SUCCESS"]
#: The load after the eviction fails. Clockwork tries it again at once, the others with the next request.
LOAD_FAILED: Final = {
    "clockwork": [
        "0.0 EvictWeights a",
        "0.0 LoadWeights a",
        "0.0 LoadWeights a",
        "8.0 Infer a",
        "11.0 SUCCESS",
        "100.0 Infer a",
        "103.0 SUCCESS",
    ],
    "edf": ["0.0 EvictWeights a", "0.0 LoadWeights a", "0.0 ERROR", *RELOADED_AFTER],
    "fifo": ["0.0 EvictWeights a", "0.0 LoadWeights a", "0.0 ERROR", *RELOADED_AFTER],
    "simple": ["0.0 EvictWeights a", "0.0 LoadWeights a", "0.0 ERROR", *RELOADED_AFTER],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_load_that_fails_after_an_eviction_leaves_the_model_cold(policy: type[Scheduler]) -> None:
    story = Story(policy)
    story.evict("a")
    story.cluster.workers["w0"].fail["LoadWeights"] = (Status.RUNTIME_ERROR, "no")
    story.infer("a")
    story.pass_time(ms(100))
    story.infer("a")
    story.check()
    assert story.lines() == LOAD_FAILED[policy.name]


def test_a_request_whose_promise_an_eviction_breaks_is_answered_at_once_with_that_reason() -> None:
    story = Story(ClockworkScheduler)
    story.infer("slow")
    story.pass_time(ms(1))
    promised = story.infer("big", slo=ms(50))
    story.pass_time(ms(1))
    story.evict("big")
    answer = story.cluster.answer(promised)
    assert isinstance(answer, InferResponse)
    assert (answer.status, answer.admitted) == (Status.CONTROLLER_COULD_NOT_START_IN_TIME, True)
    assert "an operator evicted big; predicted completion is 14 ms past the deadline" in answer.message
    story.check()
    assert story.lines(promised) == [
        "2.0 EvictWeights big",
        "2.0 CONTROLLER_COULD_NOT_START_IN_TIME",
        "2.0 LoadWeights big",
    ]


def test_a_request_is_answered_when_its_weights_were_evicted_eight_times() -> None:
    story = Story(ClockworkScheduler)
    for _ in range(10):
        story.infer("slow", slo=seconds(3))
    story.pass_time(ms(1))
    waiting = story.infer("a", slo=seconds(3))
    for _ in range(8):
        story.pass_time(ms(10))
        story.evict("a")
    story.check()
    assert story.lines(waiting)[-3:] == [
        "71.0 LoadWeights a",
        "81.0 EvictWeights a",
        "81.0 CONTROLLER_COULD_NOT_START_IN_TIME",
    ]


def test_no_device_is_chosen_whose_weights_are_evicted_at_the_same_time() -> None:
    story = Story(ClockworkScheduler)
    worker = FakeWorker("w1", FILES).hold("a.onnx", warm=True).hold("slow.onnx", warm=True).hold("big.onnx")
    story.cluster.connect(worker)
    for _ in range(2):
        story.infer("slow")
    story.pass_time(ms(1))
    waiting = story.infer("a")
    story.pass_time(ms(1))
    story.evict("a", devices=2)
    story.check()
    assert story.lines(waiting) == [
        "2.0 EvictWeights a",
        "2.0 EvictWeights a",
        "2.0 LoadWeights a",
        "27.0 Infer a",
        "33.0 SUCCESS",
    ]


class FailsInEvicted(SimpleScheduler):
    """Records the calls of `evicted`, and raises in each."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, list[tuple[str, Residency]]]] = []

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        self.heard.append((model, [(str(gpu), gpu.residency(model)) for gpu in gpus]))
        raise RuntimeError("it fails")


def test_evicted_is_called_when_weights_were_evicted_and_only_then() -> None:
    scheduler = FailsInEvicted()
    cluster = serving(scheduler, FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    cluster.ask(EvictRequest(2, "a"))
    cluster.ask(EvictRequest(3, "a"))
    assert scheduler.heard == [("a", [("w0/gpu0", Residency.COLD)])]
    assert cluster.answer(2) == EvictResponse(2, Status.SUCCESS, "", 1)
    assert cluster.answer(3) == EvictResponse(3, Status.SUCCESS, "", 0)
    assert ["raised in evicted: RuntimeError" in text for text in cluster.reports("ERROR")] == [True]
    cluster.run_until(cluster.now + ms(10))
    cluster.check_rest()
