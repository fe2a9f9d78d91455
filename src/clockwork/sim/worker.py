"""The simulated host of a worker: the production `WorkerCore`, on devices that take their time from profiles.

Rules of the file: nothing is decided here. What the live host does with threads, this does with the loop. The worker's
clock may be off and drift; its core sees only that clock.
"""

from collections.abc import Callable, Mapping
from typing import Any

from clockwork.messages.actions import Infer, LoadModelFromDisk, LoadWeights
from clockwork.messages.results import InferOutput, Timing
from clockwork.messages.status import Status
from clockwork.sim.devices import DurationModel
from clockwork.sim.loop import Loop
from clockwork.sim.models import SimModel
from clockwork.sim.timer import Timer
from clockwork.units import Bytes, Nanos, Pages
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import (
    ActionReceived,
    Event,
    Executed,
    ModelRead,
    Outcome,
    Released,
    SendResult,
    StartTask,
    TaskFailed,
    TaskFinished,
    WeightsLoaded,
)

EVICT_TIME: Nanos = 0
"""Unmapping pages takes microseconds; the worker needs no device time for it."""


class SimWorker:
    """A worker process. One that dies and comes back is a new one."""

    def __init__(
        self,
        loop: Loop,
        name: str,
        kind: str,
        devices: int,
        pages: Pages,
        page_size: Bytes,
        models: Mapping[str, SimModel],
        durations: list[DurationModel],
        send: Callable[[SendResult], None],
        started: Callable[[str, StartTask, Nanos], None],
        offset: Nanos = 0,
        drift_ppm: float = 0.0,
    ) -> None:
        """``models`` by path; ``send`` takes results, ``started`` hears of each task with the worker's time."""
        self.name = name
        self.core = WorkerCore(page_size, [(kind, pages)] * devices)
        self.durations = durations
        self.failing = 0.0  #: share of the Infers that fail
        self.alive = True
        self.busy: list[Nanos] = [0] * devices  #: time in EXEC so far
        self._loop = loop
        self._models = models
        self._send = send
        self._started = started
        self._offset = offset
        self._drift = drift_ppm / 1e6
        self._timer = Timer(loop, self._next_wakeup, self._wake)

    def clock(self) -> Nanos:
        """What the worker's clock shows."""
        now = self._loop.now
        return now + self._offset + int(now * self._drift) if self._drift else now + self._offset

    def receive(self, action_received: ActionReceived) -> None:
        """An action has arrived."""
        if self.alive:
            self.feed(action_received)

    def feed(self, event: Event) -> None:
        """Something happened to the worker."""
        self._execute(self.core.handle(self.clock(), event))
        self._timer.arm()

    def _next_wakeup(self) -> Nanos | None:
        if not self.alive:
            return None
        moment = self.core.next_wakeup()
        if moment is None:
            return None
        if not self._drift:
            return moment - self._offset
        wait = moment - self.clock()
        return self._loop.now + (max(1, int(wait / (1 + self._drift)) + 1) if wait > 0 else 0)

    def _wake(self) -> None:
        self._execute(self.core.wake(self.clock()))

    def _execute(self, commands: list[Any]) -> None:
        for command in commands:
            if isinstance(command, SendResult):
                self._send(command)
            else:
                self._begin(command)

    def _begin(self, task: StartTask) -> None:
        begin = self.clock()
        self._started(self.name, task, begin)
        duration, outcome = self._carry_out(task, begin)
        self._loop.at(self._loop.now + duration, self._finish, (task, begin, duration, outcome))

    def _finish(self, finished: Any) -> None:
        if not self.alive:
            return
        task, begin, duration, outcome = finished
        if isinstance(task.action, Infer) and task.gpu is not None:
            self.busy[task.gpu] += duration
        self.feed(TaskFinished(task.gpu, task.lane, begin, begin + duration, outcome))

    def _carry_out(self, task: StartTask, begin: Nanos) -> tuple[Nanos, Outcome]:
        """How long the task takes, and how it will have ended."""
        action = task.action
        if isinstance(action, Infer):
            return self._infer(task, action, begin)
        if isinstance(action, LoadWeights) and task.gpu is not None:
            model = self._host_model(task.handles[0])
            return self.durations[task.gpu].load(model.profile), WeightsLoaded(model)
        if isinstance(action, LoadModelFromDisk):
            return self._read(action)
        return EVICT_TIME, Released()

    def _read(self, action: LoadModelFromDisk) -> tuple[Nanos, Outcome]:
        model = self._models.get(action.path)
        if model is None:
            return 0, TaskFailed(Status.INVALID_MODEL_PATH, f"there is no model {action.path}")
        read = ModelRead(model, model.digest, "sim", model.inputs, model.outputs, model.batchable, model.weights_bytes)
        return 0, read

    def _infer(self, task: StartTask, action: Infer, begin: Nanos) -> tuple[Nanos, Outcome]:
        assert task.gpu is not None
        model, durations = self._host_model(task.handles[0]), self.durations[task.gpu]
        duration = durations.infer(model.profile, action.batch_size)
        if self.failing and durations.chance() < self.failing:
            return duration, TaskFailed(Status.RUNTIME_ERROR, "a fault was ordered")
        outputs = tuple([InferOutput(share.request_id, ()) for share in action.inputs])
        at_begin, end = Timing(begin, begin, 0), begin + duration
        exec_time = Timing(begin, end, duration)
        return duration, Executed(outputs, (None,) * len(outputs), at_begin, exec_time, Timing(end, end, 0))

    def _host_model(self, handle: object) -> SimModel:
        assert isinstance(handle, SimModel)
        return handle
