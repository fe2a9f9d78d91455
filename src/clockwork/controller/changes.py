"""Loads, replaces and unloads models while the server serves.

Theory of operation. A *change* makes a name serve a set of versions. All loads of the change begin at once, on every
worker. Each loaded model is measured until it is ready (`clockwork.controller.live_measuring`). When all models are
ready, they begin to serve in one step, and the versions that they replace are retired. If any load fails, the whole
change fails. After a failure, the new models are unloaded, and the earlier versions continue to serve.

A *retired* model gets no new requests, because the catalog no longer contains it. When its last pending request has
ended, the scheduler forgets the model, and the workers unload it.

A name has at most one change at a time. Later requests for the same name wait in order.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from clockwork.controller.catalog import Catalog
from clockwork.controller.change_requests import (
    copies_of,
    load_response,
    nothing_to_unload,
    unload_response,
    versions_to_load,
)
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.events import ControllerCommand, Report, Respond
from clockwork.controller.fleet import Fleet
from clockwork.controller.live_measuring import LiveMeasuring
from clockwork.controller.loading import Load, Loads, refuse_full
from clockwork.controller.naming import is_copy
from clockwork.controller.profiling import Profiler
from clockwork.controller.responses import refusal_response
from clockwork.controller.serving import Serving
from clockwork.controller.unloading import Unloads
from clockwork.errors import InvalidRequestError
from clockwork.messages.faults import unknown_model
from clockwork.messages.requests import (
    LoadModelRequest,
    PromoteRequest,
    PromoteResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, ModelState, WorkerState
from clockwork.units import Nanos

Commands: TypeAlias = list[ControllerCommand]
ChangeRequest: TypeAlias = LoadModelRequest | UnloadModelRequest

LOADS_PER_WORKER: Final = 1
"""Largest number of outstanding loads per worker. One load at a time disturbs the worker's inferences least."""


@dataclass(eq=False)
class _Coming:
    """A version that a change loads. ``number`` is empty until the version's number is known."""

    number: str
    path: str
    key: str
    model: ModelState | None = None  #: set when the model is loaded on the workers
    ready: bool = False
    same: bool = False  #: whether the version that serves now has the same content


@dataclass(eq=False)
class _Change:
    """A change under way. ``client`` is the pair of client id and request id, or None after the client was answered."""

    name: str
    coming: list[_Coming]
    keep: bool
    client: tuple[int, int] | None
    failed: bool = False


@dataclass(eq=False)
class _Unload:
    """An unload. The client of an unload waits until no worker has any of the models."""

    client: tuple[int, int]
    versions: tuple[str, ...]
    left: set[str] = field(default_factory=set)  #: keys of models that workers still have


class Changes:
    """The changes under way, and the retired models."""

    def __init__(
        self,
        state: ClockworkState,
        config: ControllerConfig,
        catalog: Catalog,
        fleet: Fleet,
        serving: Serving,
        profiler: Profiler,
        restorations: Loads,
    ) -> None:
        """``restorations`` loads models on workers that connected during a load."""
        self._state = state
        self._config = config
        self._catalog = catalog
        self._fleet = fleet
        self._serving = serving
        self._measuring: LiveMeasuring = serving.own.measuring
        self._profiler = profiler
        self._restorations = restorations
        self._loads = Loads(state, fleet.workers, LOADS_PER_WORKER, restorations.pushes)
        self._unloads = Unloads(state)
        self._changes: dict[str, _Change] = {}  #: changes by name
        self._comings: dict[str, tuple[_Change, _Coming]] = {}  #: versions to load, by key
        self._waiting: dict[str, deque[tuple[int, ChangeRequest]]] = {}  #: requests that wait for a change, by name
        self._retiring: dict[str, tuple[ModelState, str]] = {}  #: key -> retired model and its version
        self._leaving: dict[str, tuple[str, str]] = {}  #: key -> name and version of a model that workers are unloading
        self._answers: list[_Unload] = []

    @property
    def pending(self) -> int:
        """Number of changes that are under way or waiting."""
        return len(self._changes) + sum(map(len, self._waiting.values()))

    @property
    def busy(self) -> bool:
        """Whether `settle` may have something to do."""
        removing = self._retiring or self._leaving or self._unloads.pending
        return bool(self._changes or self._comings or removing or self._measuring.progress)

    def paths(self) -> set[str]:
        """Return the paths of the models that changes load, including the changes that wait."""
        waiting = [request for entries in self._waiting.values() for _, request in entries]
        paths = {version.path for load in waiting if isinstance(load, LoadModelRequest) for version in load.versions}
        return paths | {coming.path for _, coming in self._comings.values()}

    # --- requests ----------------------------------------------------------------------------------------------------

    def load(self, now: Nanos, client_id: int, request: LoadModelRequest) -> Commands:
        """Handle a client's request for a load."""
        if self.pending >= self._config.max_loads:
            return [refuse_full(client_id, request, self.pending)]
        try:
            name, versions = versions_to_load(self._catalog, request)
        except InvalidRequestError as error:
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, str(error))]
        if name in self._changes:
            return self._wait(name, client_id, request)
        change = _Change(name, [], request.keep, (client_id, request.id) if request.wait else None)
        self._changes[name] = change
        for version in versions:
            coming = _Coming(version.number, version.path, self._free_key(name, version.number))
            change.coming.append(coming)
            self._comings[coming.key] = change, coming
            if coming.number:
                self._catalog.load(name, coming.number)
        commands: Commands = []
        if not request.wait:
            commands.append(load_response(client_id, request.id, Status.SUCCESS, "", (name,)))
        for coming in change.coming:
            load = Load(LoadSpec(coming.path, coming.key), None, partial=True, serving=True)
            commands += self._loads.start(load, sorted(self._fleet.workers))
        return commands + self.settle(now)

    def unload(self, now: Nanos, client_id: int, request: UnloadModelRequest) -> Commands:
        """Handle a client's request for an unload of one version or of all versions."""
        name = request.name
        if name in self._changes:
            return self._wait(name, client_id, request)
        names = copies_of(self._catalog, name) or [name]
        ready = [(each, number) for each in names for number in self._catalog.ready(each)]
        if request.version:
            version = self._catalog.version(name, request.version)
            ready = [(name, version.number)] if version is not None and (name, version.number) in ready else []
        if not ready:
            return [nothing_to_unload(self._catalog, client_id, request)]
        unload = _Unload((client_id, request.id), tuple(number for _, number in ready))
        for each, number in ready:
            model = self._catalog.unload(each, number, "unloaded")
            assert model is not None
            unload.left.add(model.name)
            self._retire(model, number)
        commands: Commands = []
        if request.wait:
            self._answers.append(unload)
        else:
            commands.append(unload_response(*unload.client, unload.versions))
        commands.append(Report("INFO", f"unloading {name}", "model_unloading", {"model": name}))
        return commands + self.settle(now)

    def promote(self, client_id: int, request: PromoteRequest) -> Commands:
        """Handle a client's request to make a version the default, or to give it a label."""
        name = request.name
        if name not in self._catalog.names():
            text = unknown_model(name, self._catalog.names())
            return [refusal_response(client_id, request, Status.UNKNOWN_MODEL, text)]
        try:
            self._catalog.promote(name, request.version, request.label)
        except InvalidRequestError as error:
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, str(error))]
        what = f"label {request.label}" if request.label else "the default version"
        report = Report(
            "INFO",
            f"{what} of {name} is version {request.version}",
            "model_promoted",
            {"model": name, "version": request.version, "label": request.label},
        )
        return [report, Respond(client_id, PromoteResponse(request.id, Status.SUCCESS, ""))]

    def shut_down(self, text: str) -> Commands:
        """Answer all clients that wait for a change with SHUTTING_DOWN."""
        commands: Commands = []
        for change in self._changes.values():
            if change.client is not None:
                commands.append(load_response(*change.client, Status.SHUTTING_DOWN, text))
                change.client = None
        for client_id, request in [entry for waiting in self._waiting.values() for entry in waiting]:
            commands.append(refusal_response(client_id, request, Status.SHUTTING_DOWN, text))
        for unload in self._answers:
            client_id, request_id = unload.client
            commands.append(Respond(client_id, UnloadModelResponse(request_id, Status.SHUTTING_DOWN, text)))
        self._waiting, self._answers = {}, []
        return commands

    # --- workers -----------------------------------------------------------------------------------------------------

    def worker_lost(self, worker_id: str) -> Commands:
        """Handle the loss of a worker."""
        self._unloads.worker_lost(worker_id)
        return [*self._loads.worker_lost(worker_id)]

    def result(self, worker_id: str, result: Result) -> Commands | None:
        """Handle a worker's result of a load or unload. Return None for other actions."""
        if self._loads.owns(worker_id, result.id):
            return [*self._loads.result(worker_id, result)]
        return self._unloads.ended(worker_id, result)

    def discard(self, worker: WorkerState, models: list[str]) -> Commands:
        """Remove models from a worker that are not served. Call this method again after each result of an eviction."""
        return self._unloads.begin(worker, models)

    def removes_from(self, worker_id: str) -> bool:
        """Return whether a model is being removed from the worker."""
        return self._unloads.removes_from(worker_id)

    # --- progress ----------------------------------------------------------------------------------------------------

    def settle(self, now: Nanos) -> Commands:
        """Take every step that is possible after the last event. Call this method after every event while serving."""
        commands: Commands = []
        while self._loads.finished or self._measuring.progress:
            finished, self._loads.finished = self._loads.finished, []
            for load in finished:
                commands += self._loaded(now, load)
            progress, self._measuring.progress = self._measuring.progress, []
            for step in progress:
                commands += self._measured(now, step.model, ready=step.ready, failure=step.failure)
        if self._retiring:
            commands += self._retire_idle(now)
        if self._unloads.pending or self._leaving:
            commands += self._note_gone(now)
        return commands

    def _loaded(self, now: Nanos, load: Load) -> Commands:
        """Handle the end of the load of one version."""
        change, coming = self._comings[load.spec.name]
        if load.failed:
            del self._comings[coming.key]
            return self._fail(now, change, load.worst_status, load.describe_failures())
        coming.model = model = self._state.models[coming.key]
        model.served_as = change.name
        if not coming.number:
            coming.number = model.info.version
            self._catalog.load(change.name, coming.number)
        model.version = coming.number
        if change.failed:
            self._drop(coming)
            return []
        commands: Commands = []
        for worker in self._fleet.workers.values():
            commands += self._restorations.restore(worker)
        serving = self._catalog.find(change.name, coming.number)
        if serving is not None and _same(serving, model):
            coming.same = coming.ready = True
            return commands + self._commit_if_ready(now, change)
        able = {gpu.kind for gpu in self._state.gpus() if gpu.can_hold(model.name)}
        if not able:
            return commands + self._fail(now, change, Status.INVALID_REQUEST, "no connected device can hold the model")
        missing = [kind for kind in sorted(able) if not self._profiler.assign_known(model, kind)]
        coming.ready = bool(model.profiles)
        if coming.ready:
            commands += self._serving.model_added(now, model)
        if missing:
            self._measuring.add(model, missing)
        return commands + self._commit_if_ready(now, change)

    def _measured(self, now: Nanos, model: ModelState, *, ready: bool, failure: str) -> Commands:
        if model.name not in self._state.models:
            return []
        change, coming = self._comings.get(model.name, (None, None))
        if failure:
            return [] if change is None else self._fail(now, change, Status.ERROR, failure)
        commands = self._serving.model_added(now, model)
        if change is not None and coming is not None and ready:
            coming.ready = True
            commands += self._commit_if_ready(now, change)
        return commands

    def _commit_if_ready(self, now: Nanos, change: _Change) -> Commands:
        """If all versions of a change are ready, serve them, and retire the versions that they replace."""
        if change.failed or not all(coming.ready for coming in change.coming):
            return []
        commands: Commands = []
        numbers = {coming.number for coming in change.coming}
        for coming in change.coming:
            assert coming.model is not None
            del self._comings[coming.key]
            if coming.same:
                self._retire(coming.model, "")
                continue
            replaced = self._catalog.serve(coming.number, coming.model)
            if replaced is not None:
                self._serving.tally.succeed(replaced.name, coming.model.name)
                self._retire(replaced, "")
        for number in [] if change.keep else self._catalog.ready(change.name):
            if number not in numbers:
                model = self._catalog.unload(change.name, number, f"replaced by version {', '.join(sorted(numbers))}")
                assert model is not None
                self._retire(model, number)
        listed = ", ".join(sorted(numbers))
        fields: dict[str, str | int] = {"model": change.name, "version": listed}
        commands.append(Report("INFO", f"serving version {listed} of {change.name}", "model_ready", fields))
        return commands + self._end(now, change, Status.SUCCESS, "")

    def _fail(self, now: Nanos, change: _Change, status: Status, why: str) -> Commands:
        """End a change that failed, and change no served version.

        The new models are unloaded, after their loads have ended.
        """
        if change.failed:
            return []
        change.failed = True
        for coming in change.coming:
            if coming.number:
                self._catalog.fail(change.name, coming.number, why)
            else:
                self._catalog.note_failure(change.name, why)
            if coming.model is not None:
                self._drop(coming)
        fields: dict[str, str | int] = {"model": change.name, "reason": why}
        report = Report("ERROR", f"cannot load {change.name}: {why}", "model_failed", fields)
        return [report, *self._end(now, change, status, why)]

    def _drop(self, coming: _Coming) -> None:
        """Unload a model of a change that failed."""
        assert coming.model is not None
        self._comings.pop(coming.key, None)
        self._retire(coming.model, "")

    def _end(self, now: Nanos, change: _Change, status: Status, message: str) -> Commands:
        """Answer the client, and begin the next change of the name."""
        del self._changes[change.name]
        commands: Commands = []
        if change.client is not None:
            models = (change.name,) if status == Status.SUCCESS else ()
            commands.append(load_response(*change.client, status, message, models))
        while change.name not in self._changes and (waiting := self._waiting.get(change.name)):
            client_id, request = waiting.popleft()
            if not waiting:
                del self._waiting[change.name]
            if isinstance(request, LoadModelRequest):
                commands += self.load(now, client_id, request)
            else:
                commands += self.unload(now, client_id, request)
        return commands

    # --- retired models ----------------------------------------------------------------------------------------------

    def _retire(self, model: ModelState, number: str) -> None:
        """Unload a model when its requests have ended.

        ``number`` is the version's number. ``number`` is empty if a newer load serves the version.
        """
        self._measuring.remove(model)
        self._retiring[model.name] = model, number

    def _retire_idle(self, now: Nanos) -> Commands:
        commands: Commands = []
        for key, (model, number) in list(self._retiring.items()):
            if self._serving.needs(model):
                continue
            del self._retiring[key]
            self._leaving[key] = model.served_as, number
            commands += self._serving.remove_model(now, model)
            # a worker that is not ready yet unloads the model when it becomes ready
            for worker in self._state.workers.values():
                commands += self._unloads.begin(worker, [key])
        return commands

    def _note_gone(self, now: Nanos) -> Commands:
        """Finish the unloads of models that no worker has any more."""
        commands: Commands = []
        for worker in self._fleet.workers.values():
            commands += self._unloads.advance(worker)
        for key, (name, number) in list(self._leaving.items()):
            if self._unloads.removing(key):
                continue
            del self._leaving[key]
            if number:
                self._catalog.gone(name, number)
            for unload in self._answers:
                unload.left.discard(key)
        done = [unload for unload in self._answers if not unload.left]
        self._answers = [unload for unload in self._answers if unload.left]
        return commands + [unload_response(*unload.client, unload.versions) for unload in done]

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _wait(self, name: str, client_id: int, request: ChangeRequest) -> Commands:
        if self.pending >= self._config.max_loads:
            return [refuse_full(client_id, request, self.pending)]
        self._waiting.setdefault(name, deque()).append((client_id, request))
        return []

    def _free_key(self, name: str, number: str) -> str:
        """Return a key that no model has. The key is the model's name, or the name with the version and a counter."""
        key, count = name, 0
        while self._is_used(key):
            count += 1
            key = f"{name}/{number or 'new'}" + (f".{count}" if count > 1 else "")
        return key

    def _is_used(self, key: str) -> bool:
        used = key in self._state.models or key in self._comings or key in self._leaving
        used = used or key in self._restorations.names() or is_copy(key, self._state.models.values())
        return used or any(key in worker.models for worker in self._fleet.workers.values())

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self._catalog.check_invariants()
        for version in self._catalog:
            assert version.model is None or self._state.models.get(version.model.name) is version.model
        serving = {version.model.name for version in self._catalog if version.model is not None}
        for key in self._state.models if serving or self._changes else ():
            assert key in serving or key in self._comings or key in self._retiring, key
        assert not set(self._leaving) & set(self._state.models)


def _same(one: ModelState, other: ModelState) -> bool:
    """Return whether two loads are of the same file with the same content."""
    return one.info.digest == other.info.digest and one.info.path == other.info.path
