"""Starts and finishes the tasks of actions, and updates the worker's tables at the start and the end of a task.

This module uses only the tables of models and memory, and has no access to time, queues or connections. ``start``
either changes the tables and returns the task, or refuses the action and changes nothing. ``finish`` is called once for
each task.

Theory of operation.

- An UnloadModel contains the names of several models. If the weights of one of these models are in use, being loaded or
  being evicted, the whole action is refused with WEIGHTS_IN_USE. A controller therefore first waits for the results of
  its other actions. When the task starts, the models are removed from the tables. So no lane can use weights that the
  task closes.
- A ClearCache is one task on each device. From the arrival of the ClearCache until the end of this task, the device
  refuses every Infer with WEIGHTS_NOT_PRESENT. So the task waits for at most one Infer. Then the task closes all
  weights at once.
- If closing weights fails, the weights still count as evicted. The handle of such weights is dropped, and the result of
  the action is an error.
"""

from collections.abc import Mapping, Sequence

from clockwork.messages.actions import (
    Action,
    ClearCache,
    EvictWeights,
    Infer,
    LoadModelFromDisk,
    LoadWeights,
    UnloadModel,
)
from clockwork.messages.results import (
    ClearCacheResult,
    EvictWeightsResult,
    LoadModelFromDiskResult,
    LoadWeightsResult,
    Result,
    Timing,
    UnloadModelResult,
)
from clockwork.messages.status import Status
from clockwork.units import Bytes
from clockwork.worker.errors import ActionRefusedError, error_result
from clockwork.worker.events import (
    Executed,
    LaneKind,
    ModelRead,
    ResultCommand,
    SendOutputs,
    SendResult,
    StartTask,
    TaskFailed,
    TaskFinished,
    WeightsLoaded,
)
from clockwork.worker.memory import DeviceMemory, WeightsState
from clockwork.worker.models import HostModels


class Tasks:
    """The worker's tables of models and memory."""

    def __init__(self, page_size: Bytes, memories: Sequence[DeviceMemory]) -> None:
        """``memories`` contains one entry per device, in the order of device numbers."""
        self.models = HostModels(page_size, max(memory.cache.total for memory in memories))
        self._memories = memories
        #: ClearCache actions that wait, with the devices that are not cleared yet
        self._clears: list[tuple[ClearCache, list[int]]] = []
        self._clear_failures: dict[int, TaskFailed] = {}  #: by action id

    def clear_arrived(self, action: ClearCache) -> None:
        """Record that a ClearCache now waits on every device."""
        self._clears.append((action, list(range(len(self._memories)))))

    def forget_clears(self, running: Mapping[int, Action]) -> None:
        """Forget the ClearCache actions that wait. ``running`` contains the actions that are running on devices."""
        kept = [(action, [gpu for gpu in left if running.get(gpu) is action]) for action, left in self._clears]
        self._clears = [(action, left) for action, left in kept if left]

    def upcoming(self, gpu: int, action: Action, payloads: tuple[object, ...]) -> StartTask | None:
        """Return the task that an Infer would start now, or None if the Infer would be refused now."""
        memory = self._memories[gpu]
        if not isinstance(action, Infer) or action.model not in self.models or self._clearing(gpu):
            return None
        if memory.state_of(action.model) not in (WeightsState.WARM, WeightsState.IN_USE):
            return None
        return StartTask(gpu, LaneKind.EXEC, action, payloads, handles=(memory.handle_of(action.model),))

    def start(self, gpu: int | None, action: Action, payloads: tuple[object, ...]) -> StartTask:
        """Start an action and return its task.

        Raises:
            ActionRefusedError: the action cannot be carried out now.
        """
        match action:
            case LoadModelFromDisk():
                self.models.check(action)
                return StartTask(None, LaneKind.HOST, action)
            case UnloadModel():
                return StartTask(None, LaneKind.HOST, action, handles=self._begin_unload(action))
        assert gpu is not None
        memory = self._memories[gpu]
        match action:
            case Infer(model=model):
                self._check_infer(gpu, action)
                return StartTask(gpu, LaneKind.EXEC, action, payloads, handles=(memory.begin_execute(model),))
            case LoadWeights(model=model):
                memory.begin_load(model, self.models.info(model).weights_pages)
                return StartTask(gpu, LaneKind.LOAD, action, handles=(self.models.handle(model),))
            case EvictWeights(model=model):
                self.models.info(model)
                return StartTask(gpu, LaneKind.LOAD, action, handles=(memory.begin_evict(model),))
        assert isinstance(action, ClearCache)
        handles = tuple(memory.begin_evict(model) for model in memory.models_in(WeightsState.WARM))
        return StartTask(gpu, LaneKind.LOAD, action, handles=handles)

    def finish(self, action: Action, finished: TaskFinished) -> ResultCommand | None:
        """End an action's task. Return the action's result, or None while the action waits for other devices."""
        outcome = finished.outcome
        timing = Timing(finished.begin, finished.end, finished.end - finished.begin)
        match action:
            case LoadModelFromDisk():
                if not isinstance(outcome, ModelRead):
                    return _task_error(action, outcome)
                return self._finish_load(action, outcome, timing)
            case UnloadModel():
                self._finish_unload(action)
                return _result_or_error(action, outcome, UnloadModelResult(action.id))
        assert finished.gpu is not None
        memory = self._memories[finished.gpu]
        match action:
            case Infer(model=model):
                memory.executed(model)
                if not isinstance(outcome, Executed):
                    return _task_error(action, outcome)
                return SendOutputs(action, outcome.outputs, outcome.copy_input, outcome.exec)
            case LoadWeights(model=model):
                if not isinstance(outcome, WeightsLoaded):
                    memory.load_failed(model)
                    return _task_error(action, outcome)
                memory.loaded(model, outcome.handle)
                return SendResult(LoadWeightsResult(action.id, timing))
            case EvictWeights(model=model):
                memory.evicted(model)
                return _result_or_error(action, outcome, EvictWeightsResult(action.id, timing))
        assert isinstance(action, ClearCache)
        return self._finish_clear(action, finished.gpu, outcome)

    def _clearing(self, gpu: int) -> bool:
        return any(gpu in left for _, left in self._clears)

    def _check_infer(self, gpu: int, action: Infer) -> None:
        info = self.models.info(action.model)
        if self._clearing(gpu):
            text = f"weights of {action.model} are being evicted: a ClearCache runs on gpu {gpu}"
            raise ActionRefusedError(Status.WEIGHTS_NOT_PRESENT, text)
        if not info.batchable and len(action.inputs) > 1:
            text = f"batch has {len(action.inputs)} requests; {action.model} executes one request at a time"
            raise ActionRefusedError(Status.INVALID_BATCH_SIZE, text)

    def _begin_unload(self, action: UnloadModel) -> tuple[object, ...]:
        names = tuple(dict.fromkeys(action.models))
        for name in names:
            self.models.info(name)
            for gpu, memory in enumerate(self._memories):
                if (state := memory.state_of(name)) not in (WeightsState.COLD, WeightsState.WARM):
                    text = f"cannot unload {name}: its weights on gpu {gpu} are {state.value}"
                    raise ActionRefusedError(Status.WEIGHTS_IN_USE, text)
        handles = []
        for name in names:
            self.models.forget(name)
            warm = (memory for memory in self._memories if memory.state_of(name) is WeightsState.WARM)
            handles += [memory.begin_evict(name) for memory in warm]
        return tuple(handles)

    def _finish_unload(self, action: UnloadModel) -> None:
        for name in dict.fromkeys(action.models):
            for memory in self._memories:
                if memory.state_of(name) is WeightsState.EVICTING:
                    memory.evicted(name)

    def _finish_load(self, action: LoadModelFromDisk, read: ModelRead, timing: Timing) -> SendResult:
        try:
            return SendResult(LoadModelFromDiskResult(action.id, self.models.add(action, read), timing))
        except ActionRefusedError as refusal:
            return SendResult(error_result(action, refusal.status, str(refusal)))

    def _finish_clear(self, action: ClearCache, gpu: int, outcome: object) -> SendResult | None:
        for model in self._memories[gpu].models_in(WeightsState.EVICTING):
            self._memories[gpu].evicted(model)
        if isinstance(outcome, TaskFailed):
            self._clear_failures[action.id] = outcome
        place, left = next((i, left) for i, (clear, left) in enumerate(self._clears) if clear is action and gpu in left)
        left.remove(gpu)
        if left:
            return None
        del self._clears[place]
        return _result_or_error(action, self._clear_failures.pop(action.id, None), ClearCacheResult(action.id))


def _result_or_error(action: Action, outcome: object, success: Result) -> SendResult:
    return _task_error(action, outcome) if isinstance(outcome, TaskFailed) else SendResult(success)


def _task_error(action: Action, outcome: object) -> SendResult:
    assert isinstance(outcome, TaskFailed), f"the task of {type(action).__name__} ended with {outcome!r}"
    return SendResult(error_result(action, outcome.status, outcome.message))
