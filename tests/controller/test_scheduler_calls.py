"""When the controller calls the scheduler, and what becomes of its answers."""

from typing import ClassVar

from builders import infer_request
from clockwork.messages.actions import DeviceAction
from clockwork.messages.commands import Answer
from clockwork.messages.requests import (
    EvictRequest,
    InferResponse,
    RequestTiming,
)
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import GPUState, PendingRequest, Residency
from clockwork.units import Nanos, ms
from cluster import serving
from schedulers import Forgetful
from served import FILES, LATE, infer_response


class Slow(Forgetful):
    """Answers SUCCESS 10 ms after the request came."""

    def __init__(self) -> None:
        self.due: list[tuple[Nanos, int]] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.due.append((now + ms(10), request.id))
        return []

    def wake(self, now: Nanos) -> list[Answer]:
        ready = [number for at, number in self.due if at <= now]
        self.due = [entry for entry in self.due if entry[0] > now]
        return [Answer(number, Status.SUCCESS) for number in ready]

    def next_wakeup(self) -> Nanos | None:
        return self.due[0][0] if self.due else None


def test_a_scheduler_is_woken_at_its_next_wakeup() -> None:
    cluster = serving(Slow(), FILES)
    cluster.ask(infer_request(1))
    assert cluster.controller.next_wakeup() == cluster.now + ms(10)
    cluster.run_until(cluster.now + ms(10))
    assert infer_response(cluster, 1) == InferResponse(1, 0, "", (), RequestTiming(ms(10)), version="1")
    assert cluster.controller.next_wakeup() is None


def test_a_success_that_the_scheduler_returns_after_the_deadline_becomes_a_timeout() -> None:
    cluster = serving(Slow(), FILES)
    cluster.ask(infer_request(1, slo=ms(10) + 1))
    cluster.now += ms(20)  # the host is late: the scheduler is woken after the deadline
    cluster.run_until(cluster.now)
    assert infer_response(cluster, 1).status == Status.TIMEOUT


def test_a_late_success_becomes_a_timeout_even_before_the_wake_of_the_deadline() -> None:
    class Dawdling(Forgetful):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            return [Answer(request.id - 1, Status.SUCCESS)] if request.id > 1 else []

    cluster = serving(Dawdling(), FILES)
    cluster.ask(infer_request(1, slo=ms(10)))
    cluster.now += ms(10) + 1
    cluster.ask(infer_request(2))
    assert infer_response(cluster, 1) == InferResponse(
        1, Status.TIMEOUT, LATE, (), RequestTiming(ms(10) + 1), version="1"
    )


def test_the_scheduler_gets_the_result_of_each_of_its_actions_and_no_others() -> None:
    class Notes(Forgetful):
        results: ClassVar[list[Result]] = []

        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            next(self.state.gpus()).infer(request.model, [request])
            return []

        def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
            self.results.append(result)
            return []

    scheduler = Notes()
    cluster = serving(scheduler, FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(5))
    cluster.ask(EvictRequest(2, "a"))
    cluster.run_until(cluster.now + ms(5))
    assert [type(result).__name__ for result in scheduler.results] == ["InferResult", "EvictWeightsResult"]


def test_start_gives_the_scheduler_all_workers_models_and_times() -> None:
    class Curious(Forgetful):
        def start(self, now: Nanos, state: object) -> list[Answer]:
            super().start(now, state)  # type: ignore[arg-type]
            self.seen = (
                [str(gpu) for gpu in self.state.gpus()],
                {name: model.infer_estimate(2) for name, model in self.state.models.items()},
                {str(gpu): gpu.residency("a") for gpu in self.state.gpus()},
            )
            return []

    scheduler = Curious()
    serving(scheduler, FILES, workers=2, gpus=2)
    assert scheduler.seen == (
        ["w0/gpu0", "w0/gpu1", "w1/gpu0", "w1/gpu1"],
        {"a": ms(4)},
        {
            "w0/gpu0": Residency.WARM,
            "w0/gpu1": Residency.COLD,
            "w1/gpu0": Residency.COLD,
            "w1/gpu1": Residency.COLD,
        },
    )


def test_actions_made_in_start_are_sent() -> None:
    class Prepared(SimpleScheduler):
        def start(self, now: Nanos, state: object) -> list[Answer]:
            super().start(now, state)  # type: ignore[arg-type]
            for gpu in self.state.gpus():
                if not len(gpu.cache):
                    gpu.load_weights(self.state.models["a"])
            return []

    cluster = serving(Prepared(), FILES, workers=3)
    cluster.run_until(cluster.now + ms(8))
    assert all(worker.gpus[0].settled() == ("a",) for worker in cluster.workers.values())
    assert not cluster.reports("ERROR")
