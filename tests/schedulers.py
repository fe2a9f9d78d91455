"""Schedulers that break rules, for tests of the controller."""

from typing import ClassVar

from clockwork.messages.actions import DeviceAction, EvictWeights
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos


class Forgetful(Scheduler):
    """Answers no request and makes no action."""

    name: ClassVar[str] = "forgetful"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return []

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        return []


class Eager(Forgetful):
    """Sends each request at once, behind the load of its model if necessary, to the device with the most free pages.

    It does not load a model whose eviction is outstanding, because the Infer would arrive between eviction and load.
    """

    name: ClassVar[str] = "eager"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        model = request.model
        able = [gpu for gpu in self.state.gpus() if gpu.can_hold(model.name) and not _evicting(gpu, model.name)]
        there = [gpu for gpu in able if gpu.residency(model.name) is not Residency.COLD]
        if there:
            there[0].infer(model, [request], now, request.deadline)
        if there or not able:
            return []
        gpu = max(able, key=lambda gpu: gpu.cache.free)
        pages = gpu.models[model.name].weights_pages
        idle = [name for name in gpu.cache if not gpu.in_use(name)]
        while gpu.cache.free < pages and idle:
            gpu.evict_weights(idle.pop(0))
        if gpu.cache.free >= pages:
            gpu.load_weights(model, now, request.deadline)
            gpu.infer(model, [request], now, request.deadline)
        return []


def _evicting(gpu: GPUState, model: str) -> bool:
    return any(isinstance(a, EvictWeights) and a.model == model for a in gpu.outstanding.values())


class Furious(Eager):
    """Raises an exception in every method after it has made its actions."""

    name: ClassVar[str] = "furious"

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        super().start(now, state)
        raise RuntimeError("start")

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        super().infer(now, request)
        raise RuntimeError("infer")

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        raise RuntimeError("result")

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        raise RuntimeError("cancel")

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        raise RuntimeError("worker_joined")

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        raise RuntimeError("worker_lost")

    def wake(self, now: Nanos) -> list[Answer]:
        raise RuntimeError("wake")

    def next_wakeup(self) -> Nanos | None:
        raise RuntimeError("next_wakeup")


class Muddled(Eager):
    """Returns actions and other values that are not answers. It also answers some requests twice or after an Infer."""

    name: ClassVar[str] = "muddled"

    def __init__(self) -> None:
        self._requests = 0

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        super().infer(now, request)
        self._requests += 1
        answers = [Answer(request.id, Status.ERROR, "no")] * (self._requests % 3)
        return [*answers, "what?", None]  # type: ignore[list-item]

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        return [action, SendAction(gpu.worker_id, action)]  # type: ignore[list-item]

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        for gpu in worker.gpus:
            for name in list(gpu.cache):
                gpu.evict_weights(name)
        return []
