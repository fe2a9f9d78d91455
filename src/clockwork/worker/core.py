"""Passes actions to the worker's lanes, and starts each action when it is due (`clockwork.machine.Machine`).

The core answers every action exactly once, whatever happens. The core has no clock and no thread, and makes no
scheduling decisions.

Theory of operation. Each device has a LOAD and an EXEC lane, and the worker has one HOST lane. An event only changes
tables (`apply`). A task starts only when `poll` is called for its lane. A host with a single loop, such as the
simulator, uses the three methods of a Machine: ``handle`` calls ``apply`` and then ``poll`` for all lanes, and ``wake``
calls ``poll`` for all lanes. A host may also have one thread per lane. Each thread calls ``apply``, and ``poll`` for
its own lane, under one lock. So no thread has to pass a task to a different thread. ``next_wakeup_of`` then shows which
other lanes need a ``poll``.

An Infer may be due while a LoadWeights of its model is running or waiting. Such an Infer waits, at most until its own
``latest``, and later actions may start first. GetWorkerState is usually answered at once. But if a task of a lost
controller still runs, the answer waits for the end of the task, because the task may change the state.
"""

from collections.abc import Sequence
from typing import Final

from clockwork.messages.actions import (
    Action,
    ClearCache,
    EvictWeights,
    FetchModel,
    GetWorkerState,
    Infer,
    LoadWeights,
    UnloadModel,
)
from clockwork.messages.findings import Finding
from clockwork.messages.results import GetWorkerStateResult, GPUInfo, WorkerInfo
from clockwork.messages.status import Status
from clockwork.units import FOREVER, Bytes, Nanos, Pages, show_duration
from clockwork.worker.errors import ActionRefusedError, error_result
from clockwork.worker.events import (
    ActionReceived,
    Command,
    ControllerLost,
    Event,
    LaneKind,
    Leave,
    ResultCommand,
    SendResult,
    StartTask,
    TaskFinished,
)
from clockwork.worker.lane import MAX_QUEUED, Entry, Lane
from clockwork.worker.memory import DeviceMemory, WeightsState
from clockwork.worker.tasks import Tasks

SHUTTING_DOWN_TEXT: Final = "the worker is shutting down"
"""Error message for actions that a worker no longer starts."""


class WorkerCore:
    """The lanes, models and weights of a worker."""

    def __init__(self, page_size: Bytes, gpus: Sequence[tuple[str, Pages]], findings: tuple[Finding, ...] = ()) -> None:
        """``gpus`` has a pair for each device: its kind (see `GPUInfo`), and the size of its weights cache in pages.

        ``findings`` are reported to the controller (see `WorkerInfo`).

        Raises:
            ValueError: the page size is not positive, or there is no device.
        """
        if page_size <= 0 or not gpus:
            raise ValueError(f"worker has {len(gpus)} devices and pages of {page_size} bytes; both must be positive")
        self._page_size = page_size
        self._findings = findings
        self._kinds = tuple(kind for kind, _ in gpus)
        self._memories = tuple(DeviceMemory(gpu, pages) for gpu, (_, pages) in enumerate(gpus))
        self._tasks = Tasks(page_size, self._memories)
        self._lanes: dict[tuple[int | None, LaneKind], Lane] = {(None, LaneKind.HOST): Lane(overtaking=False)}
        for gpu in range(len(gpus)):
            self._lanes[gpu, LaneKind.LOAD] = Lane(overtaking=False)
            self._lanes[gpu, LaneKind.EXEC] = Lane(overtaking=True)
        self._state_queries: list[GetWorkerState] = []  #: GetWorkerState actions that wait for an answer
        self._leaving = False

    @property
    def loads_models(self) -> bool:
        """Whether a load or an unload of models in host memory is running or waiting."""
        lane = self._lanes[None, LaneKind.HOST]
        return lane.running is not None or len(lane) > 0

    @property
    def lanes(self) -> tuple[tuple[int | None, LaneKind], ...]:
        """All lanes as pairs of device and kind. For the HOST lane, the device is None."""
        return tuple(self._lanes)

    # ------------------------------------------------------------------------------------------------------- Machine

    def handle(self, now: Nanos, event: Event) -> list[Command]:
        """Handle an event; see `clockwork.machine.Machine`."""
        return [*self.apply(event), *self.wake(now)]

    def wake(self, now: Nanos) -> list[Command]:
        """Start every task that can start, and answer every action that is late."""
        return [command for gpu, kind in self._lanes for command in self.poll(now, gpu, kind)]

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `wake`, which may be in the past.

        None means that nothing is due before the next event.
        """
        moments = (self.next_wakeup_of(gpu, kind) for gpu, kind in self._lanes)
        return min((moment for moment in moments if moment is not None), default=None)

    # --------------------------------------------------------------------------------------- for a thread per lane

    def apply(self, event: Event) -> list[ResultCommand]:
        """Update the tables for an event without starting a task."""
        match event:
            case ActionReceived(action, payloads):
                return self._receive(action, payloads)
            case TaskFinished():
                return self._finish(event)
            case ControllerLost():
                self._forget_controller()
            case Leave():
                return self._leave()
        return []

    def poll(self, now: Nanos, gpu: int | None, kind: LaneKind) -> list[Command]:
        """Answer the late actions of a lane. If the lane is free, start at most one task on it."""
        lane = self._lanes[gpu, kind]
        commands: list[Command] = [*self._expire(now, gpu, lane)]
        while (entry := lane.take_due(now, lambda waiting: self._blocked(gpu, waiting.action))) is not None:
            try:
                commands.append(self._tasks.start(gpu, entry.action, entry.payloads))
            except ActionRefusedError as refusal:
                commands.append(SendResult(error_result(entry.action, refusal.status, str(refusal))))
            else:
                lane.running = entry
        return commands

    def next_wakeup_of(self, gpu: int | None, kind: LaneKind) -> Nanos | None:
        """Return when to `poll` a lane, which may be in the past.

        None means that nothing is due before the next event.
        """
        lane = self._lanes[gpu, kind]
        if not len(lane):
            return None
        start = lane.next_start(lambda waiting: self._blocked(gpu, waiting.action))
        expiry = lane.next_expiry()
        return expiry if start is None else start if expiry is None else min(start, expiry)

    def expire(self, now: Nanos) -> list[SendResult]:
        """Answer the late actions of all lanes, even actions that wait behind a running task. Start no task."""
        return [result for (gpu, _), lane in self._lanes.items() for result in self._expire(now, gpu, lane)]

    def next_expiry(self) -> Nanos | None:
        """Return when to call `expire` next."""
        moments = (lane.next_expiry() for lane in self._lanes.values())
        return min((moment for moment in moments if moment is not None), default=None)

    def executing(self, gpu: int) -> bool:
        """Return whether an Infer runs on the device."""
        return self._lanes[gpu, LaneKind.EXEC].running is not None

    @property
    def owes_results(self) -> bool:
        """Whether the controller expects the result of a running task."""
        return any(lane.running is not None and not lane.running.orphaned for lane in self._lanes.values())

    def upcoming(self, gpu: int) -> StartTask | None:
        """Return the Infer that will start next on the device, unless another event happens before.

        A host can prepare this Infer in advance.

        Return None if no Infer waits, or if the Infer would be refused now.
        """
        entry = self._lanes[gpu, LaneKind.EXEC].upcoming(lambda waiting: self._blocked(gpu, waiting.action))
        if entry is None:
            return None
        return self._tasks.upcoming(gpu, entry.action, entry.payloads)

    # -------------------------------------------------------------------------------------------------------- state

    def info(self) -> WorkerInfo:
        """Return the worker's state as GetWorkerState reports it."""
        present = (WeightsState.WARM, WeightsState.IN_USE)
        gpus = tuple(
            GPUInfo(gpu, self._kinds[gpu], memory.cache.total, memory.models_in(*present))
            for gpu, memory in enumerate(self._memories)
        )
        return WorkerInfo(self._page_size, gpus, self._tasks.models.infos(), self._findings)

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        for lane in self._lanes.values():
            lane.check_invariants()
        for gpu, memory in enumerate(self._memories):
            memory.check_invariants()
            running = self._lanes[gpu, LaneKind.EXEC].running
            in_use = (running.action.model,) if running and isinstance(running.action, Infer) else ()
            assert memory.models_in(WeightsState.IN_USE) == in_use
            loading = self._lanes[gpu, LaneKind.LOAD].running
            expected = (loading.action.model,) if loading and isinstance(loading.action, LoadWeights) else ()
            assert memory.models_in(WeightsState.LOADING) == expected
            assert all(
                model in self._tasks.models for model in memory.models_in(WeightsState.WARM, WeightsState.LOADING)
            )
        assert not self._state_queries or self._orphans()

    # -------------------------------------------------------------------------------------------------------- events

    def _receive(self, action: Action, payloads: tuple[object, ...]) -> list[ResultCommand]:
        if self._leaving:
            return [SendResult(error_result(action, Status.SHUTTING_DOWN, SHUTTING_DOWN_TEXT))]
        if isinstance(action, GetWorkerState):
            self._state_queries.append(action)
            return self._answer_state_queries()
        try:
            lanes = self._lanes_for(action, payloads)
        except ActionRefusedError as refusal:
            return [SendResult(error_result(action, refusal.status, str(refusal)))]
        if isinstance(action, ClearCache):
            self._tasks.clear_arrived(action)
        for lane in lanes:
            lane.push(_entry(action, payloads))
        return []

    def _lanes_for(self, action: Action, payloads: tuple[object, ...]) -> list[Lane]:
        """Return the lanes in which an action must wait.

        Raises:
            ActionRefusedError: there is no such device, the action is invalid, or a lane is full.
        """
        if isinstance(action, Infer | LoadWeights | EvictWeights) and not 0 <= action.gpu < len(self._memories):
            text = f"gpu {action.gpu} is unknown; this worker has gpus 0 to {len(self._memories) - 1}"
            raise ActionRefusedError(Status.INVALID_GPU, text)
        if isinstance(action, Infer):
            if not action.inputs or len(payloads) != len(action.inputs):
                text = (
                    f"Infer has {len(action.inputs)} inputs and {len(payloads)} payloads; it needs one each per request"
                )
                raise ActionRefusedError(Status.INVALID_ACTION, text)
            lanes = [self._lanes[action.gpu, LaneKind.EXEC]]
        elif isinstance(action, LoadWeights | EvictWeights):
            lanes = [self._lanes[action.gpu, LaneKind.LOAD]]
        elif isinstance(action, ClearCache):
            lanes = [self._lanes[gpu, LaneKind.LOAD] for gpu in range(len(self._memories))]
        elif isinstance(action, FetchModel):  # the host of a worker that can receive files executes this action
            raise ActionRefusedError(Status.INVALID_ACTION, "this worker receives no model files")
        else:
            lanes = [self._lanes[None, LaneKind.HOST]]
        if any(len(lane) >= MAX_QUEUED for lane in lanes):
            raise ActionRefusedError(Status.ERROR, f"the lane is full: {MAX_QUEUED} actions wait")
        return lanes

    def _finish(self, finished: TaskFinished) -> list[ResultCommand]:
        lane = self._lanes[finished.gpu, finished.lane]
        entry, lane.running = lane.running, None
        assert entry is not None, f"no task ran on {finished.lane} of gpu {finished.gpu}"
        result = self._tasks.finish(entry.action, finished)
        if entry.orphaned:
            return self._answer_state_queries()
        return [result] if result is not None else []

    def _leave(self) -> list[ResultCommand]:
        self._leaving = True
        waiting: dict[int, Action] = {action.id: action for action in self._state_queries}
        for lane in self._lanes.values():  # a ClearCache is in several lanes, but is answered once
            waiting |= {entry.action.id: entry.action for entry in lane.waiting()}
            lane.clear()
        self._state_queries.clear()
        return [
            SendResult(error_result(action, Status.SHUTTING_DOWN, SHUTTING_DOWN_TEXT)) for action in waiting.values()
        ]

    def _forget_controller(self) -> None:
        for lane in self._lanes.values():
            lane.clear()
            if lane.running is not None:
                lane.running.orphaned = True
        self._state_queries.clear()
        loading = ((gpu, lane.running) for (gpu, kind), lane in self._lanes.items() if kind is LaneKind.LOAD)
        self._tasks.forget_clears(
            {gpu: entry.action for gpu, entry in loading if gpu is not None and entry is not None}
        )

    def _answer_state_queries(self) -> list[ResultCommand]:
        if not self._state_queries or self._orphans():
            return []
        queries, self._state_queries = self._state_queries, []
        return [SendResult(GetWorkerStateResult(action.id, self.info())) for action in queries]

    def _orphans(self) -> bool:
        """Return whether a task of a lost controller runs."""
        return any(lane.running is not None and lane.running.orphaned for lane in self._lanes.values())

    def _blocked(self, gpu: int | None, action: Action) -> bool:
        """Return whether an action that is due must wait for the end of a task in a different lane."""
        if gpu is None:
            return False
        if isinstance(action, ClearCache):  # waits while weights are in use or are being closed
            return bool(self._memories[gpu].models_in(WeightsState.IN_USE, WeightsState.EVICTING))
        if not isinstance(action, Infer):
            return False
        state, load = self._memories[gpu].state_of(action.model), self._lanes[gpu, LaneKind.LOAD]
        if state in (WeightsState.WARM, WeightsState.IN_USE):
            return load.will_evict(
                action.model, action.earliest
            )  # the Infer is for the weights that are loaded after the eviction
        return state is WeightsState.LOADING or load.will_load(action.model)

    def _expire(self, now: Nanos, gpu: int | None, lane: Lane) -> list[SendResult]:
        results = []
        for entry in lane.take_late(now):
            text = f"the action's latest start passed {show_duration(now - entry.latest)} ago"
            if lane.running is not None:
                text += f" while {type(lane.running.action).__name__} {lane.running.action.id} ran"
            elif self._blocked(gpu, entry.action):
                text += " while the action waited for its weights to be loaded"
            results.append(SendResult(error_result(entry.action, Status.COULD_NOT_START_IN_TIME, text)))
        return results


def _entry(action: Action, payloads: tuple[object, ...]) -> Entry:
    if isinstance(action, UnloadModel | ClearCache | GetWorkerState | FetchModel):
        return Entry(action, 0, FOREVER)
    return Entry(action, action.earliest, action.latest, payloads)
