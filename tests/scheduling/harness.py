"""Runs a started scheduler. Its devices ``w0/gpu0``, ... return results when a test calls for them."""

from collections.abc import Sequence

from builders import pending
from clockwork.messages.actions import EvictWeights, Infer, InferInput, LoadWeights
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.results import ErrorResult, EvictWeightsResult, LoadWeightsResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype, spec
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, PendingRequest
from clockwork.units import Nanos, ms

TOOK = Timing(0, 0, 0)


def show(commands: Sequence[SendAction | Answer]) -> list[str]:
    """Return one line for each command, such as ``w0/gpu0 Infer r1``, ``w0/gpu0 LoadWeights a`` or ``r1 ERROR``."""
    lines = []
    for command in commands:
        if isinstance(command, Answer):
            lines.append(f"r{command.request_id} {Status(command.status).name}")
            continue
        action = command.action
        assert isinstance(action, LoadWeights | EvictWeights | Infer)
        what = action.model
        if isinstance(action, Infer):
            what = " ".join(f"r{share.request_id}" for share in action.inputs)
        lines.append(f"{command.worker_id}/gpu{action.gpu} {type(action).__name__} {what}")
    return lines


class SchedulerHarness:
    """A started scheduler. ``sent`` contains the outstanding actions. Requests are numbered from 1."""

    def __init__(self, state: ClockworkState, scheduler: Scheduler) -> None:
        self.state = state
        self.scheduler = scheduler
        self.now: Nanos = 0
        self.sent: list[SendAction] = []
        self.requests: dict[int, PendingRequest] = {}
        assert self.scheduler.start(0, state) == []
        assert not state.actions

    def infer(self, model: str, *, slo: Nanos = ms(100), rows: int = 1, length: int = 2) -> list[str]:
        """Let a request arrive. ``length`` is the second dimension of its input."""
        request = pending(len(self.requests) + 1, self.state.models[model], rows=rows, arrival=self.now, slo=slo)
        request.input = InferInput(request.id, rows, (spec("x", Datatype.FP32, (rows, length)),))
        self.requests[request.id] = request
        return self._say(self.scheduler.infer(self.now, request))

    def done(self, status: Status | None = None) -> list[str]:
        """End the first outstanding action. It succeeds, or fails with ``status``."""
        send = self.sent.pop(0)
        action = send.action
        assert isinstance(action, LoadWeights | EvictWeights | Infer)
        gpu = self.state.workers[send.worker_id].gpu(action.gpu)
        result: Result = LoadWeightsResult(action.id, TOOK)
        if isinstance(action, EvictWeights):
            result = EvictWeightsResult(action.id, TOOK)
        if status is not None:
            result = ErrorResult(action.id, type(action).__name__, status, "no")
        elif isinstance(action, Infer):
            for share in action.inputs:
                self.requests[share.request_id].over = True
        gpu.settle(action, result)
        return self._say(self.scheduler.result(self.now, gpu, action, result))

    def cancel(self, number: int) -> list[str]:
        """Cancel a request."""
        self.requests[number].over = True
        return self._say(self.scheduler.cancel(self.now, self.requests[number]))

    def wake(self) -> list[str]:
        """Let time pass until the scheduler's next wake-up, and wake the scheduler."""
        moment = self.scheduler.next_wakeup()
        assert moment is not None
        assert moment > self.now
        self.now = moment
        return self._say(self.scheduler.wake(self.now))

    def lose(self, worker_id: str) -> list[str]:
        """Lose a worker."""
        worker = self.state.workers.pop(worker_id)
        worker.leave()
        self.sent = [send for send in self.sent if send.worker_id != worker_id]
        return self._say(self.scheduler.worker_lost(self.now, worker))

    def _say(self, answers: list[Answer]) -> list[str]:
        sent = [queued.command() for queued in self.state.actions.take()]
        self.sent += sent
        return show([*answers, *sent])
