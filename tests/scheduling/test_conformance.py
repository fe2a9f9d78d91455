"""The conformance suite passes the built-in schedulers and the examples, and fails schedulers that break a rule."""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from clockwork.messages.actions import DeviceAction, EvictWeights, Infer
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.registry import BUILT_IN, make_scheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, WorkerState
from clockwork.testing import check_scheduler
from clockwork.units import Nanos, seconds

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_schedulers_pass_the_suite(name: str) -> None:
    check_scheduler(BUILT_IN[name], seeds=1, executes=name != "echo")


@pytest.mark.parametrize("name", ["at_home:AtHome", "least_loaded:LeastLoaded", "batching:Batching"])
def test_the_examples_pass_the_suite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    try:
        check_scheduler(lambda: make_scheduler(name), seeds=1)
    finally:
        sys.modules.pop(name.partition(":")[0], None)


class KeepsNames(SimpleScheduler):
    """Keeps the names of models that were unloaded."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        self.names.append(model.name)
        return super().model_added(now, model)


def test_a_scheduler_that_keeps_the_names_of_unloaded_models_is_found() -> None:
    with pytest.raises(AssertionError, match=r"the controller still refers to an unloaded model: .* > KeepsNames"):
        check_scheduler(KeepsNames, seeds=1)


class Raises(SimpleScheduler):
    """Raises at every tenth request."""

    count = 0

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.count += 1
        if self.count % 10 == 0:
            raise RuntimeError("a defect")
        return super().infer(now, request)


class AnswersTwice(SimpleScheduler):
    """Answers requests a second time."""

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        answers = super().result(now, gpu, action, result)
        if isinstance(action, Infer):
            answers.append(Answer(action.inputs[0].request_id, Status.ERROR, "again"))
        return answers


class EvictsWhatIsInUse(SimpleScheduler):
    """Evicts a model right after it has sent an Infer."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        answers = super().infer(now, request)
        for queued in list(self.state.actions):
            if isinstance(queued.action, Infer):
                queued.gpu.evict_weights(queued.action.model)
        return answers


class ReturnsActions(SimpleScheduler):
    """Returns an action that no device has made."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        gpu = next(iter(self.state.gpus()))
        evict = EvictWeights(self.state.actions.next_id(), gpu.gpu_id, request.model.name)
        return [*super().infer(now, request), SendAction(gpu.worker_id, evict)]  # type: ignore[list-item]


class LoadsTwice(SimpleScheduler):
    """Loads weights that are already loaded."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        answers = super().infer(now, request)
        next(iter(self.state.gpus())).load_weights(request.model)
        return answers


class KeepsRequests(SimpleScheduler):
    """Keeps requests until they have `at_once` rows, and makes one Infer of them. Base class of the next ones."""

    at_once = 3

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        self.kept: dict[str, list[PendingRequest]] = {}
        return super().start(now, state)

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        gpu = next(iter(self.state.holders.get(request.model.name, ())), None)
        if gpu is None or request.deadline - now > seconds(1) or not self.together(request):
            return super().infer(now, request)
        kept = [one for one in self.kept.pop(request.model.name, []) if not one.over] + [request]
        if sum(one.batch_size for one in kept) < self.at_once:
            self.kept[request.model.name] = kept
            return []
        gpu.infer(request.model, kept, now, request.deadline)
        return []

    def together(self, request: PendingRequest) -> bool:
        return True


class MixesShapes(KeepsRequests):
    """Puts two requests of different shapes into one Infer."""

    at_once = 2

    def together(self, request: PendingRequest) -> bool:
        return request.model.flexible and request.model.info.batchable


class BatchesTooMuch(KeepsRequests):
    """Makes an Infer with more rows than were measured."""

    at_once = 9

    def together(self, request: PendingRequest) -> bool:
        return request.model.info.batchable and not request.model.flexible


class BatchesTheUnbatchable(KeepsRequests):
    """Puts two requests for an unbatchable model into one Infer."""

    at_once = 2

    def together(self, request: PendingRequest) -> bool:
        return not request.model.info.batchable


class UsesALostWorker(SimpleScheduler):
    """Makes actions for a worker that was lost."""

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        super().worker_lost(now, worker)
        for gpu in worker.gpus:
            for name in [name for name in gpu.cache if not gpu.in_use(name)]:
                gpu.evict_weights(name)
        return []


class AnswersTheCancelled(SimpleScheduler):
    """Answers cancelled requests."""

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return [Answer(request.id, Status.CANCELLED, "as you wish")]


class AnswersByItself(Scheduler):
    """Answers SUCCESS without executing anything."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return [Answer(request.id, Status.SUCCESS)]

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        return []


class RefusesAll(Scheduler):
    """Refuses every request."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, "no")]

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        return []


class WakesInThePast(SimpleScheduler):
    """Returns a next wakeup in the past, always."""

    def next_wakeup(self) -> Nanos | None:
        return 0


class WakesTooOften(SimpleScheduler):
    """Returns a next wakeup one nanosecond later, always."""

    now = 0

    def wake(self, now: Nanos) -> list[Answer]:
        self.now = now
        return []

    def next_wakeup(self) -> Nanos | None:
        return self.now + 1


SHARED = Random(1)  # shared, so a second run draws other numbers


class RefusesAtRandom(SimpleScheduler):
    """Refuses requests at random."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.deadline - now < 1_000_000_000 and SHARED.random() < 0.2:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, "bad luck")]
        return super().infer(now, request)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Raises, "the scheduler raised in infer: RuntimeError: a defect"),
        (AnswersTwice, "which is over"),
        (EvictsWhatIsInUse, "in use"),
        (ReturnsActions, "which is not a valid Answer"),
        (LoadsTwice, "ValueError: .* is (warm|loading) on"),
        (MixesShapes, "whose inputs have different shapes"),
        (BatchesTooMuch, "rows; the largest batch of"),
        (BatchesTheUnbatchable, "which is not batchable"),
        (UsesALostWorker, "ValueError: .* is gone: its worker was lost"),
        (AnswersTheCancelled, "which is over"),
        (RefusesAll, "a single request with time to spare was not served"),
        (AnswersByItself, "answered without an Infer"),
        (WakesInThePast, "woken 1000 times at one time"),
        (WakesTooOften, "woken 20000 times in a run"),
        (RefusesAtRandom, "the scheduler is not deterministic: its decision"),
    ],
)
def test_a_scheduler_that_breaks_a_rule_fails_the_suite(broken: Callable[[], Scheduler], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check_scheduler(broken, seeds=1)
