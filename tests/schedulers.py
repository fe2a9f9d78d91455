"""Schedulers that nobody should use, to see what the controller makes of them."""

from typing import ClassVar

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Command, SendAction
from clockwork.messages.results import Result
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos


class Forgetful(Scheduler):
    """Does nothing at all, for nobody."""

    name: ClassVar[str] = "forgetful"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        return []

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        return []


class Eager(Forgetful):
    """Sends each request at once, right behind the load of its model if need be, on the device with most room.

    It does not load what is just being evicted: its Infer would come between the two.
    """

    name: ClassVar[str] = "eager"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        model = request.model
        able = [gpu for gpu in self.state.gpus() if gpu.can_hold(model.name) and not _evicting(gpu, model.name)]
        there = [gpu for gpu in able if gpu.residency(model.name) is not Residency.COLD]
        if there:
            return [there[0].infer(model, [request], now, request.deadline)]
        if not able:
            return []
        gpu = max(able, key=lambda gpu: gpu.cache.free)
        pages = gpu.models[model.name].weights_pages
        idle = [name for name in gpu.cache if not gpu.in_use(name)]
        commands: list[Command] = []
        while gpu.cache.free < pages and idle:
            commands.append(gpu.evict_weights(idle.pop(0)))
        if gpu.cache.free < pages:
            return commands
        load = gpu.load_weights(model, now, request.deadline)
        return [*commands, load, gpu.infer(model, [request], now, request.deadline)]


def _evicting(gpu: GPUState, model: str) -> bool:
    return any(isinstance(a, EvictWeights) and a.model == model for a in gpu.outstanding.values())


class Furious(Eager):
    """Raises in every method, after it has made its actions."""

    name: ClassVar[str] = "furious"

    def start(self, now: Nanos, state: ClockworkState) -> list[Command]:
        super().start(now, state)
        raise RuntimeError("start")

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        super().infer(now, request)
        raise RuntimeError("infer")

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        raise RuntimeError("result")

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Command]:
        raise RuntimeError("cancel")

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Command]:
        raise RuntimeError("worker_joined")

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Command]:
        raise RuntimeError("worker_lost")

    def wake(self, now: Nanos) -> list[Command]:
        raise RuntimeError("wake")

    def next_wakeup(self) -> Nanos | None:
        raise RuntimeError("next_wakeup")


class Muddled(Eager):
    """Says each thing twice, keeps the half of it for later, and says what nobody can understand."""

    name: ClassVar[str] = "muddled"

    def __init__(self) -> None:
        self._kept: list[Command] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        commands = super().infer(now, request)
        kept, self._kept = self._kept, commands[::2]
        return [*kept, *commands[1::2], *commands[1::2], "what?", None]  # type: ignore[list-item]

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        return [SendAction(gpu.worker_id, action), SendAction("nobody", action)]

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Command]:
        return [SendAction(gpu.worker_id, action) for gpu in worker.gpus for action in gpu.outstanding.values()]
