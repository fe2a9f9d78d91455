"""A scheduler under observation: what it says is noted and held against the rules, and passed on as it is.

Rules of the file: it changes nothing, except that a scheduler that will not let time pass is no longer woken: the suite
has to end.
"""

from collections.abc import Sequence
from typing import Any, Final

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import Result
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, PendingRequest, WorkerState
from clockwork.units import Nanos

WAKES_AT_ONCE_MOST: Final = 1000
"""Wakes at one moment: a scheduler that wants more does not let time pass."""

WAKES_MOST: Final = 20_000
"""Wakes in a run of a few seconds: a scheduler that wants more lets time pass too slowly."""

PROBLEMS_MOST: Final = 100


class Observed(Scheduler):
    """See the module. ``said`` has each command with its time; ``problems`` are sentences."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Observe ``scheduler``, which was not started yet."""
        self.scheduler = scheduler
        self.said: list[tuple[Nanos, object]] = []
        self.problems: list[str] = []
        self._wakes = 0
        self._wakes_at_once = 0
        self._woken_at: Nanos = -1
        self._restless = False

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """See `Scheduler`, as for all that follows."""
        super().start(now, state)
        return self._note(now, self.scheduler.start(now, state))

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Passed on."""
        return self._note(now, self.scheduler.infer(now, request))

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        """Passed on."""
        return self._note(now, self.scheduler.result(now, gpu, action, result))

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Passed on."""
        return self._note(now, self.scheduler.cancel(now, request))

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """Passed on."""
        return self._note(now, self.scheduler.evicted(now, model, gpus))

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Passed on."""
        return self._note(now, self.scheduler.worker_joined(now, worker))

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Passed on."""
        return self._note(now, self.scheduler.worker_lost(now, worker))

    def wake(self, now: Nanos) -> list[Answer]:
        """Passed on, and counted."""
        self._wakes += 1
        self._wakes_at_once = self._wakes_at_once + 1 if now == self._woken_at else 1
        self._woken_at = now
        if self._wakes_at_once > WAKES_AT_ONCE_MOST:
            self._tire(f"it was woken {WAKES_AT_ONCE_MOST} times at one moment and asks for more in next_wakeup")
        elif self._wakes > WAKES_MOST:
            self._tire(f"it was woken {WAKES_MOST} times in a run of a few seconds: it wakes for nothing")
        return self._note(now, self.scheduler.wake(now))

    def next_wakeup(self) -> Nanos | None:
        """Passed on, until it is known to never rest."""
        return None if self._restless else self.scheduler.next_wakeup()

    def _tire(self, problem: str) -> None:
        self._restless = True
        self._problem(problem)

    def _problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MOST:
            self.problems.append(text)

    def _note(self, now: Nanos, answers: Any) -> list[Answer]:
        noted = [*answers]
        self.said += [(now, answer) for answer in noted]
        for queued in self.state.actions:
            self.said.append((now, queued.command()))
            if isinstance(queued.action, Infer):
                self._check_batch(queued.action)
        return noted

    def _check_batch(self, infer: Infer) -> None:
        """An Infer is one batch: its inputs agree in every dimension but the first, and it is not too large."""
        model = self.state.models.get(infer.model)
        if model is None:
            self._problem(f"it sent an Infer of {infer.model!r}, which is no model")
            return
        if len(infer.inputs) > 1 and not model.info.batchable:
            self._problem(f"it sent {len(infer.inputs)} requests in one Infer of {model.name}, which is not batchable")
        elif infer.batch_size > model.max_rows:
            rows = f"{infer.batch_size} rows; the largest batch of {model.name} is {model.max_rows}"
            self._problem(f"it sent an Infer of {rows}")
        elif model.flexible and model.info.batchable:
            shapes = [{tensor.name: tensor.shape[1:] for tensor in share.tensors} for share in infer.inputs]
            if any(shape != shapes[0] for shape in shapes):
                self._problem(f"it sent an Infer whose inputs have different shapes: {shapes}")
