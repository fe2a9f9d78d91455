"""Wraps a scheduler, records its answers and actions, and checks them against the rules.

The wrapper forwards all calls and results unchanged, with one exception: if a scheduler always requests a wake-up at
the present time, the wrapper stops waking it. Without this exception, the tests would never end.
"""

from collections.abc import Sequence
from typing import Any, Final

from clockwork.messages.actions import DeviceAction, Infer
from clockwork.messages.commands import Answer
from clockwork.messages.results import Result
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, WorkerState
from clockwork.units import Nanos

MAX_WAKES_AT_ONCE: Final = 1000
"""Limit of wake-ups at one time. A scheduler that requests more wake-ups lets no time pass."""

MAX_WAKES: Final = 20_000
"""Limit of wake-ups in a run of a few seconds. No scheduler should request more."""

MAX_PROBLEMS: Final = 100
"""Largest number of problems that are recorded."""


class Observed(Scheduler):
    """A scheduler that wraps the scheduler under test. ``problems`` contains a text for each broken rule.

    ``decisions`` contains each answer and action with its time.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        """Wrap ``scheduler``. The scheduler must not be started yet."""
        self.scheduler = scheduler
        self.decisions: list[tuple[Nanos, object]] = []
        self.problems: list[str] = []
        self._wakes = 0
        self._wakes_at_once = 0
        self._woken_at: Nanos = -1
        self._restless = False

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Call the scheduler's `start` and record its decisions."""
        super().start(now, state)
        return self._record(now, self.scheduler.start(now, state))

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Call the scheduler's `infer` and record its decisions."""
        return self._record(now, self.scheduler.infer(now, request))

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Call the scheduler's `result` and record its decisions."""
        return self._record(now, self.scheduler.result(now, gpu, action, result))

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Call the scheduler's `cancel` and record its decisions."""
        return self._record(now, self.scheduler.cancel(now, request))

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """Call the scheduler's `evicted` and record its decisions."""
        return self._record(now, self.scheduler.evicted(now, model, gpus))

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Call the scheduler."""
        return self._record(now, self.scheduler.model_added(now, model))

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Call the scheduler."""
        return self._record(now, self.scheduler.model_removed(now, model))

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Call the scheduler's `worker_joined` and record its decisions."""
        return self._record(now, self.scheduler.worker_joined(now, worker))

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Call the scheduler's `worker_lost` and record its decisions."""
        return self._record(now, self.scheduler.worker_lost(now, worker))

    def wake(self, now: Nanos) -> list[Answer]:
        """Call the scheduler's `wake`, record its decisions and count the wakes."""
        self._wakes += 1
        self._wakes_at_once = self._wakes_at_once + 1 if now == self._woken_at else 1
        self._woken_at = now
        if self._wakes_at_once > MAX_WAKES_AT_ONCE:
            self._stop_waking(
                f"it was woken {MAX_WAKES_AT_ONCE} times at one time; next_wakeup still returns that time"
            )
        elif self._wakes > MAX_WAKES:
            self._stop_waking(f"it was woken {MAX_WAKES} times in a run of a few seconds: it requests too many wakes")
        return self._record(now, self.scheduler.wake(now))

    def next_wakeup(self) -> Nanos | None:
        """Call the scheduler's `next_wakeup`. Return None if the scheduler was woken too often."""
        return None if self._restless else self.scheduler.next_wakeup()

    def _stop_waking(self, problem: str) -> None:
        self._restless = True
        self._problem(problem)

    def _problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def _record(self, now: Nanos, answers: Any) -> list[Answer]:
        recorded = [*answers]
        self.decisions += [(now, answer) for answer in recorded]
        for queued in self.state.actions:
            self.decisions.append((now, queued.command()))
            if isinstance(queued.action, Infer):
                self._check_batch(queued.action)
        return recorded

    def _check_batch(self, infer: Infer) -> None:
        """Check that an Infer is a valid batch.

        The inputs must have the same shape, and the batch must not be too large.
        """
        model = self.state.models.get(infer.model)
        if model is None:
            self._problem(f"it sent an Infer of {infer.model!r}, which is not a model")
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
