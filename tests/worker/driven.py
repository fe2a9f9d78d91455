"""Lets tests drive a worker's core. Tests pass events to the core and get its commands as lines of text.

``start exec0 Infer#3`` means that a task was started on the EXEC lane of device 0. ``Infer#3 ok`` and ``Infer#3
WEIGHTS_NOT_PRESENT`` are results. The invariants are checked after every event.
"""

from collections.abc import Sequence

from clockwork.messages.actions import (
    Action,
    EvictWeights,
    Infer,
    InferInput,
    LoadModelFromDisk,
    LoadWeights,
    UnloadModel,
)
from clockwork.messages.results import ErrorResult, GetWorkerStateResult, InferResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, spec
from clockwork.units import FOREVER, MIB, Nanos, ms
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import (
    ActionReceived,
    Command,
    ControllerLost,
    Executed,
    LaneKind,
    Leave,
    ModelRead,
    Outcome,
    Released,
    SendOutputs,
    StartTask,
    TaskFailed,
    TaskFinished,
    WeightsLoaded,
)

HOST, LOAD, EXEC = LaneKind.HOST, LaneKind.LOAD, LaneKind.EXEC
PAGE = 16 * MIB
NONE = Timing(0, 0, 0)


def infer(
    action_id: int,
    model: str = "m",
    *,
    gpu: int = 0,
    earliest: float = 0,
    latest: float | None = None,
    requests: int = 1,
) -> Infer:
    """Return an Infer. Its window is in milliseconds."""
    inputs = tuple(InferInput(i, 1, (spec("x", "FP32", (1, 2)),)) for i in range(requests))
    return Infer(action_id, gpu, model, inputs, ms(earliest), FOREVER if latest is None else ms(latest))


def load(
    action_id: int, model: str = "m", *, gpu: int = 0, earliest: float = 0, latest: float | None = None
) -> LoadWeights:
    """Return a LoadWeights. Its window is in milliseconds."""
    return LoadWeights(action_id, gpu, model, ms(earliest), FOREVER if latest is None else ms(latest))


def evict(action_id: int, model: str = "m", *, gpu: int = 0, earliest: float = 0) -> EvictWeights:
    """Return an EvictWeights that may start at ``earliest`` milliseconds."""
    return EvictWeights(action_id, gpu, model, ms(earliest))


def read(pages: int = 1, digest: str = "d", batchable: bool = True) -> ModelRead:
    """Return a model whose weights take ``pages`` pages."""
    tensors = (TensorInfo("x", "FP32", (-1, 2)),)
    return ModelRead(f"host {digest}", digest, "fake 1", tensors, tensors, batchable, pages * PAGE)


def outcome_of(task: StartTask) -> Outcome:
    """Return the outcome of a task that succeeds. Models have one page, and outputs are empty."""
    match task.action:
        case LoadModelFromDisk():
            return read()
        case LoadWeights():
            return WeightsLoaded(f"{task.action.model} on gpu {task.gpu}")
        case Infer():
            return Executed(f"out of {task.action.id}", NONE, NONE)
    return Released()


def show(command: Command) -> str:
    """Return a command as one line."""
    if isinstance(command, StartTask):
        lane = "host" if command.gpu is None else f"{command.lane}{command.gpu}"
        return f"start {lane} {type(command.action).__name__}#{command.action.id}"
    if isinstance(command, SendOutputs):
        return f"Infer#{command.action.id} ok"
    result = command.result
    if isinstance(result, ErrorResult):
        return f"{result.action}#{result.id} {Status(result.status).name}"
    return f"{type(result).__name__.removesuffix('Result')}#{result.id} ok"


class Worker:
    """A core with its running tasks and its results."""

    def __init__(self, pages: int = 4, gpus: int = 1) -> None:
        """The core has ``gpus`` devices with ``pages`` pages each."""
        self.started: list[int] = []  #: ids of actions whose tasks were started
        self.core = WorkerCore(PAGE, [("fake", pages)] * gpus)
        self.running: dict[tuple[int | None, LaneKind], StartTask] = {}
        self.results: list[Result] = []
        self.last: list[Command] = []

    def receives(self, at: float, *actions: Action) -> list[str]:
        """Let actions arrive at ``at`` milliseconds."""
        lines = []
        for action in actions:
            payloads = tuple(f"in {i.request_id}" for i in action.inputs) if isinstance(action, Infer) else ()
            lines += self._take(ms(at), self.core.handle(ms(at), ActionReceived(action, payloads)))
        return lines

    def ends(self, at: float, lane: LaneKind, outcome: Outcome | None = None, gpu: int | None = 0) -> list[str]:
        """End the task on a lane."""
        gpu = None if lane is HOST else gpu
        task = self.running.pop((gpu, lane))
        done = TaskFinished(gpu, lane, ms(at), ms(at), outcome if outcome is not None else outcome_of(task))
        return self._take(ms(at), self.core.handle(ms(at), done))

    def fails(self, at: float, lane: LaneKind, status: Status = Status.RUNTIME_ERROR) -> list[str]:
        """Let the task on a lane of device 0 fail."""
        return self.ends(at, lane, TaskFailed(status, "it broke"))

    def wakes(self, at: float) -> list[str]:
        """Let time pass until ``at`` milliseconds."""
        return self._take(ms(at), self.core.wake(ms(at)))

    def abandoned(self, at: float) -> list[str]:
        """Lose the controller."""
        return self._take(ms(at), self.core.handle(ms(at), ControllerLost()))

    def leaves(self, at: float) -> list[str]:
        """Let the worker begin to end."""
        return self._take(ms(at), self.core.handle(ms(at), Leave()))

    def holding(self, *models: str, pages: int = 1, batchable: bool = True) -> "Worker":
        """Load models into host memory at 0 ms. Return this object."""
        for model in models:
            self.receives(0, LoadModelFromDisk(-1, f"{model}.onnx", model))
            self.ends(0, HOST, read(pages, batchable=batchable))
        return self

    def warm(self, *models: str, gpu: int = 0) -> "Worker":
        """Load models' weights on a device at 0 ms. Return this object."""
        self.holding(*(model for model in models if all(info.name != model for info in self.core.info().models)))
        for model in models:
            self.receives(0, load(-2, model, gpu=gpu))
            self.ends(0, LOAD, gpu=gpu)
        return self

    def loaded_on(self, gpu: int = 0) -> tuple[str, ...]:
        """Return the models whose weights are on a device."""
        return self.core.info().gpus[gpu].models

    def message(self) -> str:
        """Return the message of the last result. This result must be an error."""
        result = self.results[-1]
        assert isinstance(result, ErrorResult)
        return result.message

    def state(self) -> GetWorkerStateResult:
        """Return the last result, which must be the result of a GetWorkerState."""
        result = self.results[-1]
        assert isinstance(result, GetWorkerStateResult)
        return result

    def _take(self, now: Nanos, commands: Sequence[Command]) -> list[str]:
        self.core.check_invariants()
        assert self.core.wake(now) == [], "every task that can start has started"
        assert (self.core.next_wakeup() or FOREVER) > now, "no wakeup is due"
        self.last = list(commands)
        for command in commands:
            if isinstance(command, StartTask):
                assert (command.gpu, command.lane) not in self.running
                assert isinstance(command.action, LoadModelFromDisk | UnloadModel) == (command.gpu is None)
                self.running[command.gpu, command.lane] = command
                self.started.append(command.action.id)
                if isinstance(command.action, Infer | LoadWeights | EvictWeights | LoadModelFromDisk):
                    assert command.action.earliest <= now <= command.action.latest
            elif isinstance(command, SendOutputs):
                self.results.append(InferResult(command.action.id, (), command.copy_input, command.exec, NONE))
            else:
                self.results.append(command.result)
        return [show(command) for command in commands]
