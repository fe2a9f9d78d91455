"""A worker with paced devices: a `clockwork.machine.Machine` that contains the production `WorkerCore`.

Theory of operation. A live host has a thread for each lane. This worker has a heap of moments instead. A moment is the
end of a task, or the start or expiry of an action. If the host calls `wake` late, all steps that were due are done in
order. Each step uses the moment at which it was due, so devices behave as if the call had been in time. Only the
results are sent late.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from math import prod
from typing import TypeAlias

from clockwork.messages.actions import Infer, LoadModelFromDisk, LoadWeights
from clockwork.messages.results import Timing, TrialRun
from clockwork.messages.status import Status
from clockwork.paced.durations import DurationModel
from clockwork.paced.models import PacedModel
from clockwork.units import Nanos
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import (
    ActionReceived,
    Event,
    Executed,
    LaneKind,
    ModelRead,
    Outcome,
    Released,
    ResultCommand,
    StartTask,
    TaskFailed,
    TaskFinished,
    WeightsLoaded,
)

VERSION = "paced"
"""Name of the runtime in the profiles of these workers."""

EVICT_TIME: Nanos = 0
"""Duration of an eviction. The duration is 0, because a real worker unmaps pages within microseconds."""

_Key: TypeAlias = tuple[int | None, LaneKind]


class PacedWorker:
    """A worker process. After a restart, the worker is represented by a new object."""

    def __init__(
        self,
        core: WorkerCore,
        models: Mapping[str, PacedModel],
        durations: Sequence[DurationModel],
        started: Callable[[StartTask, Nanos], None] | None = None,
    ) -> None:
        """The keys of ``models`` are paths. ``durations`` has an entry for each device.

        ``started`` is called with each task and its start time.
        """
        self.core = core
        self.durations = durations
        self.failing = 0.0  #: share of the Infers that fail, from 0 to 1
        self.busy: list[Nanos] = [0] * len(durations)  #: time spent on executing, by device
        self._models = models
        self._started = started
        self._of_host: list[_Key] = [key for key in core.lanes if key[0] is None]
        self._of_gpu = [[key for key in core.lanes if key[0] == gpu] for gpu in range(len(durations))]
        self._moments: list[
            tuple[Nanos, int, _Key, TaskFinished | None]
        ] = []  #: a heap of moments; each is the end of a task, or a poll of a lane (None)

        #: when each lane is polled next; all other entries of the lane in the heap are void
        self._armed: dict[_Key, Nanos] = {}
        self._pushed = 0
        #: number of executions by device and path; counted only if first executions are slow
        self._executed: dict[tuple[int, str], int] = {}

    def handle(self, now: Nanos, event: Event) -> list[ResultCommand]:
        """Handle an event; see `clockwork.machine.Machine`."""
        answers = self.wake(now)
        answers += self.core.apply(event)
        self._poll_concerned(now, _gpu_of(event), answers)
        return answers

    def wake(self, now: Nanos) -> list[ResultCommand]:
        """Do all steps that are due, in order."""
        answers: list[ResultCommand] = []
        moments = self._moments
        while moments and moments[0][0] <= now:
            moment, _, key, finished = heappop(moments)
            if finished is not None:
                if key[1] is LaneKind.EXEC and key[0] is not None:
                    self.busy[key[0]] += finished.end - finished.begin
                answers += self.core.apply(finished)
                self._poll_concerned(moment, finished.gpu, answers)
            elif self._armed.get(key) == moment:
                del self._armed[key]
                self._poll(moment, key, answers)
        return answers

    @property
    def idle(self) -> bool:
        """Whether no task runs."""
        return all(finished is None for _, _, _, finished in self._moments)

    def busy_by(self, now: Nanos) -> Nanos:
        """Return the time that all devices together have spent on executing.

        The time of running inferences is included.
        """
        running = [
            finished.begin
            for _, _, key, finished in self._moments
            if finished is not None and key[1] is LaneKind.EXEC and key[0] is not None
        ]
        return sum(self.busy) + len(running) * now - sum(running)

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `wake`, which may be in the past."""
        moments = self._moments
        while moments and moments[0][3] is None and self._armed.get(moments[0][2]) != moments[0][0]:
            heappop(moments)
        return moments[0][0] if moments else None

    def _poll_concerned(self, now: Nanos, gpu: int | None, answers: list[ResultCommand]) -> None:
        """Poll the lanes that an event of ``gpu`` can affect.

        An event of a device affects only the lanes of this device. If ``gpu`` is None (the HOST lane), all lanes are
        polled.
        """
        if gpu is not None and 0 <= gpu < len(self._of_gpu):
            for key in self._of_gpu[gpu]:
                self._poll(now, key, answers)
        else:
            for key in self.core.lanes:
                self._poll(now, key, answers)

    def _poll(self, now: Nanos, key: _Key, answers: list[ResultCommand]) -> None:
        for command in self.core.poll(now, *key):
            if isinstance(command, StartTask):
                self._begin(now, key, command)
            else:
                answers.append(command)
        moment = self.core.next_wakeup_of(*key)
        if moment is None:
            self._armed.pop(key, None)
        elif self._armed.get(key) != moment:
            self._armed[key] = moment
            self._push(moment, key, None)

    def _push(self, moment: Nanos, key: _Key, finished: TaskFinished | None) -> None:
        self._pushed += 1
        heappush(self._moments, (moment, self._pushed, key, finished))

    def _begin(self, now: Nanos, key: _Key, task: StartTask) -> None:
        if self._started is not None:
            self._started(task, now)
        duration, outcome = self._carry_out(task, now)
        end = now + duration
        self._push(end, key, TaskFinished(task.gpu, task.lane, now, end, outcome))

    def _carry_out(self, task: StartTask, begin: Nanos) -> tuple[Nanos, Outcome]:
        """Return the duration of the task and its outcome."""
        action = task.action
        if isinstance(action, Infer):
            return self._infer(task, action, begin)
        if isinstance(action, LoadWeights) and task.gpu is not None:
            model = _model(task.handles[0])
            return self.durations[task.gpu].load(model.profile), WeightsLoaded(model)
        if isinstance(action, LoadModelFromDisk):
            return self._read(action)
        return EVICT_TIME, Released()

    def _read(self, action: LoadModelFromDisk) -> tuple[Nanos, Outcome]:
        model = self._models.get(action.path)
        if model is None:
            known = ", ".join(sorted(self._models)[:5])
            return 0, TaskFailed(
                Status.INVALID_MODEL_PATH,
                f"model {action.path!r} has no profile on this worker, which emulates {known}",
            )
        read = ModelRead(
            model,
            model.digest,
            VERSION,
            model.inputs,
            model.outputs,
            model.batchable,
            model.weights_bytes,
            version=model.version,
            trial=TrialRun(self._trial(model), _elements(model)) if model.trial else None,
        )
        return model.read, read

    def _trial(self, model: PacedModel) -> Nanos:
        """Return the duration of the trial execution, which takes longer on a worker with slow devices."""
        return round(model.trial * max([durations.usual_factor for durations in self.durations], default=1.0))

    def _infer(self, task: StartTask, action: Infer, begin: Nanos) -> tuple[Nanos, Outcome]:
        assert task.gpu is not None
        model, durations = _model(task.handles[0]), self.durations[task.gpu]
        duration = durations.infer(model.profile, action.batch_size)
        if model.first:
            before = self._executed.get((task.gpu, model.path), 0)
            if before < len(model.first):
                self._executed[task.gpu, model.path] = before + 1
                duration = round(duration * model.first[before])
        if self.failing and durations.chance() < self.failing:
            return duration, TaskFailed(Status.RUNTIME_ERROR, "fault injected by the scenario")
        return duration, Executed(model, Timing(begin, begin, 0), Timing(begin, begin + duration, duration))


def _gpu_of(event: Event) -> int | None:
    if isinstance(event, ActionReceived):
        gpu: int | None = getattr(event.action, "gpu", None)
        return gpu
    return event.gpu if isinstance(event, TaskFinished) else None


def _elements(model: PacedModel) -> int:
    """Return the number of elements in one row of the inputs, with 1 for free dimensions."""
    return sum(prod(max(1, dim) for dim in tensor.shape) for tensor in model.inputs)


def _model(handle: object) -> PacedModel:
    assert isinstance(handle, PacedModel)
    return handle
