"""Implements the stages before SERVING, and the same steps for a worker that connects later.

Theory of operation. `clockwork.controller.stage` lists the stages and the events that end them::

    QUERYING   Every worker reports its state. The stage ends when all connected workers have reported, and there are
               at least as many workers as the operator configured.
    LOADING    Clients load models. If the operator named models, the stage ends when they are loaded. Otherwise it ends
               ``load_timeout`` after the end of the last load. This countdown starts only after a client has requested
               a load. The countdown stops while a load is pending, and then starts again from zero.
    PROFILING  Every model that no known profile covers is measured. The stage ends when all are measured.
    SERVING    The scheduler decides.

A worker that connects later reports its state and loads the models that it lacks. If its kind of device is new, the
models are measured on it. After these steps, the scheduler uses the worker. `WorkerPhase` defines the phases of a
worker.

A load that a client requests during QUERYING waits for LOADING.

A model that the operator named is *broken* if it cannot be loaded or measured. All other models are served. Start-up
fails if no model is left. With ``strict``, start-up fails at the first broken model. If a worker is lost during several
loads, any of these loads may have crashed the worker. So these loads are tried again, one at a time. If a worker is
also lost during the second load of a model, the model is broken. If the operator named no models, a controller that has
no model left stays in LOADING or returns to LOADING.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.controller.action_results import checked_result
from clockwork.controller.changes import Changes
from clockwork.controller.config import ControllerConfig, ControlMode, LoadSpec
from clockwork.controller.events import ControllerCommand, DropWorker, GiveUp, Report, StageEntered, WorkerConnected
from clockwork.controller.fleet import Fleet, worker_report
from clockwork.controller.loading import Load, Loads, refuse_full
from clockwork.controller.naming import keyed_specs, load_spec, spec_names
from clockwork.controller.profiling import Profiler
from clockwork.controller.pushing import Pushes
from clockwork.controller.responses import refusal_response
from clockwork.controller.serving import Serving
from clockwork.controller.stage import TRANSITIONS, Stage, StageEvent, WorkerPhase
from clockwork.errors import InvalidRequestError
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import LoadModelRequest, Progress
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, WorkerState
from clockwork.units import Nanos

Commands = list[ControllerCommand]

NO_MODEL_LOADED: Final = "no model is loaded; the server stays in stage loading; load a model with: clockwork load PATH"
"""Reported when the countdown of LOADING ends and no model is loaded."""

NO_MODEL_MEASURED: Final = (
    "no model could be measured; the server returns to stage loading; load another with: clockwork load PATH"
)
"""Text that is reported when none of the models that clients loaded could be measured."""

MAX_LISTED: Final = 10
"""Largest number of names in one report."""


class Startup:
    """The controller's stage, its fleet, and the loads and measurements that are under way."""

    def __init__(
        self,
        state: ClockworkState,
        config: ControllerConfig,
        profiles: dict[ProfileKey, ModelProfile],
        serving: Serving,
        on_serving: Callable[[Nanos], Commands],
    ) -> None:
        """``profiles`` were measured earlier. ``on_serving`` is called when SERVING begins.

        Raises:
            InvalidRequestError: a model that the operator named has an impossible name, path or number of copies.
        """
        self._state = state
        self._config = config
        self._serving = serving
        self._on_serving = on_serving
        self.stage = Stage.QUERYING
        self.serving_since: Nanos | None = None  #: when SERVING began; this stays set in DRAINING
        self.fleet = Fleet(state, config.query_timeout)
        self.pushes = Pushes(state.actions, config.pushes_models)
        self.loads = Loads(state, self.fleet.workers, config.loads_per_worker, self.pushes)
        self.profiler = Profiler(state, config.profiling, profiles)
        self._early_loads: list[tuple[int, LoadModelRequest]] = []  #: loads that clients requested in QUERYING
        self._gave_up = False  #: start-up has failed, so the stage no longer changes
        self._last_activity: Nanos | None = None  #: last activity in LOADING; None: no countdown has started
        most = config.max_copies
        self.specs = keyed_specs(config.models, most)  #: models that the operator named
        self._named = [LoadSpec(spec.path, spec.key, spec.no_of_copies) for spec in self.specs]
        self._numbers = {spec.key: spec.version for spec in self.specs if spec.version}  #: by name on workers
        self._first_worker: Nanos | None = None  #: when the first worker connected
        self._interrupted: deque[LoadSpec] = deque()  #: loads to repeat, one at a time, because a worker was lost
        self._tried_again: set[LoadSpec] = set()
        self.broken: dict[str, str] = self.profiler.broken  #: model -> why it is not served
        self.broken.update(config.unusable)
        self.changes = Changes(state, config, serving.catalog, self.fleet, serving, self.profiler, self.loads)

    @property
    def ended_early(self) -> bool:
        """Whether the operator ended the server before SERVING, so that start-up was abandoned."""
        return self.stage is Stage.DRAINING and self.serving_since is None

    def progress(self, now: Nanos) -> Progress:
        """Return how many models are loaded or measured in this stage, and their total number."""
        if self.stage is Stage.LOADING:
            loaded = len(self._state.models)
            return Progress(loaded, loaded + len(self.loads.names() - set(self._state.models)))
        if self.stage is Stage.PROFILING:
            return self.profiler.progress(now)
        return Progress()

    def paths(self) -> set[str]:
        """Return the paths of the models that are loaded, or that start-up will load."""
        early = [request for _, request in self._early_loads]
        paths = {version.path for request in early for version in request.versions}
        return paths | {model.info.path for model in self._state.models.values()} | {spec.path for spec in self._named}

    # --- workers -----------------------------------------------------------------------------------------------------

    def worker_connected(self, now: Nanos, event: WorkerConnected) -> Commands:
        """Handle the connection of a worker. If the worker had an earlier connection, that connection is lost."""
        worker_id = event.worker_id
        commands: Commands = []
        if self._first_worker is None:
            self._first_worker = now
        if worker_id in self.fleet.phases:
            commands += self.worker_lost(now, worker_id, "the worker has connected again")
        return commands + self.fleet.connect(now, event)

    def worker_lost(self, now: Nanos, worker_id: str, reason: str) -> Commands:
        """Handle the end of the connection to a worker."""
        phase = self.fleet.phases.get(worker_id)
        if phase is None:
            return []
        commands: Commands = [worker_report("WARNING", worker_id, "lost", reason)]
        worker = self.fleet.remove(worker_id)
        if worker is not None:
            commands += self.loads.worker_lost(worker_id)
            commands += self.changes.worker_lost(worker_id)
            commands += self.profiler.worker_lost(now, worker)
            if phase is WorkerPhase.READY:
                commands += self._serving.worker_lost(now, worker)
        return commands + self.advance(now)

    def result(self, now: Nanos, worker_id: str, result: Result) -> Commands:
        """Handle a worker's result of an action that the scheduler did not make."""
        worker = self.fleet.workers.get(worker_id)
        if worker is not None and result.id in worker.routes:
            gpu = worker.routes[result.id]
            action = gpu.outstanding[result.id]
            result = checked_result(self._state, action, result)
            if not gpu.settle(action, result):
                return [
                    DropWorker(worker_id, f"the worker contradicts the controller about weights on {gpu}: {result}")
                ]
            if self.changes.removes_from(worker_id):  # the action is an eviction
                return [*self.changes.discard(worker, []), *self.advance(now)]
            return [*self.profiler.result(gpu, result), *self.advance(now)]
        if (round_trip := self.fleet.queries.answered(now, worker_id, result.id)) is not None:
            return self._add_worker(now, worker_id, result, round_trip)
        if self.loads.owns(worker_id, result.id):
            return [*self.loads.result(worker_id, result), *self.advance(now)]
        if (commands := self.changes.result(worker_id, result)) is not None:
            return commands if self.serving_since is None else commands + self.advance(now)
        if self.pushes.owns(worker_id, result.id):
            return [*self.pushes.result(worker_id, result), *self.advance(now)]
        if self.fleet.note_unload(result.id):
            return []
        return [Report("WARNING", f"worker {worker_id} sent a result of an action that it does not have: {result}")]

    def _add_worker(self, now: Nanos, worker_id: str, result: Result, round_trip: Nanos) -> Commands:
        """Handle a worker's report of its state."""
        worker = self.fleet.add_state(worker_id, result, round_trip)
        if isinstance(worker, DropWorker):
            return [worker]
        commands = self._adopt(worker)
        if self.stage is Stage.LOADING:  # the other workers may lack models that this worker has
            for known in self.fleet.workers.values():
                commands += self.loads.restore(known)
        elif self.stage is not Stage.QUERYING:
            commands += self.loads.restore(worker)
        if self.stage is Stage.PROFILING and not self.loads.pending_for(worker_id):
            commands += self.profiler.add(now, worker)
        return commands + self.advance(now)

    def _adopt(self, worker: WorkerState) -> Commands:
        """Add a worker's models to the server's models until LOADING ends.

        Unload the worker's models that differ from the server's models of the same name.

        Models that are being loaded are added by `_note_finished_loads`.
        """
        commands = self.fleet.unload_contradictions(worker)
        if self.stage in (Stage.QUERYING, Stage.LOADING):
            being_loaded = self.loads.names()
            for name, info in worker.models.items():
                if name not in self._state.models and name not in being_loaded:
                    self._state.add_model(info)
        return commands

    # --- stages ------------------------------------------------------------------------------------------------------

    def advance(self, now: Nanos) -> Commands:
        """Go to the next stages as far as possible now, and give the scheduler every worker that is ready."""
        commands = self._note_finished_loads(now)
        if self._gave_up:
            return commands
        commands += self._try_again()
        commands += self._end_countdown_without_models(now)
        while (reason := self._why_give_up()) is None and (event := self._stage_event(now)) is not None:
            commands += self._enter(now, event)
        if reason is not None:
            self._gave_up = True
            return [*commands, GiveUp(reason)]
        if self.serving_since is not None:
            commands += self._add_ready_workers(now)
        return commands

    def drain(self) -> StageEntered:
        """Enter the stage DRAINING, because the operator ends the server."""
        self.stage = TRANSITIONS[self.stage, StageEvent.DRAIN_REQUESTED]
        return StageEntered(self.stage.value)

    def _stage_event(self, now: Nanos) -> StageEvent | None:
        """Return the event that ends the current stage now, or None."""
        match self.stage:
            case Stage.QUERYING:
                if not self.fleet.queries and self._has_workers(now):
                    return StageEvent.WORKERS_REPORTED
            case Stage.LOADING:
                if self._loading_is_over(now):
                    return StageEvent.MODELS_LOADED
            case Stage.PROFILING:
                if self._profiling_is_over():
                    served = self._measured_models() or self._config.control is not ControlMode.NONE
                    return StageEvent.MODELS_MEASURED if served else StageEvent.NO_MODEL_MEASURED
        return None

    def querying_ends(self) -> Nanos | None:
        """Return when QUERYING stops waiting for workers that have not connected, or None if there is no time limit."""
        wait = self._config.worker_wait
        if self.stage is not Stage.QUERYING or wait is None or self._first_worker is None or not self.fleet.workers:
            return None
        return self._first_worker + wait

    def _has_workers(self, now: Nanos) -> bool:
        ends = self.querying_ends()
        return len(self.fleet.workers) >= self._config.workers or (ends is not None and now >= ends)

    def _profiling_is_over(self) -> bool:
        return bool(self.fleet.workers) and self._nothing_pending() and not self.profiler.busy

    def _measured_models(self) -> list[str]:
        return [name for name in self._state.models if name not in self.broken]

    def _why_give_up(self) -> str | None:
        """Return why start-up fails now.

        Start-up fails if no model is left, or if a named model is broken and ``strict`` is set.
        """
        if not self._named and not self._config.unusable:
            return None
        named = {name for spec in self._named for name in spec_names(spec)} | set(self._config.unusable)
        broken = [f"cannot serve {name}: {why}" for name, why in self.broken.items() if name in named]
        if self._config.strict and broken:
            return broken[0]
        if self._config.control is not ControlMode.NONE:
            return None  # clients can load models later
        over = self.stage is Stage.LOADING and self._loading_is_over(0) and not self._state.models
        over = over or (self.stage is Stage.PROFILING and self._profiling_is_over() and not self._measured_models())
        if not over or not broken:
            return None
        return broken[0] if len(broken) == 1 else f"none of {len(broken)} models can be served; {broken[0]}"

    def _enter(self, now: Nanos, event: StageEvent) -> Commands:
        self.stage = TRANSITIONS[self.stage, event]
        match self.stage:
            case Stage.LOADING:
                return self._begin_loading(now)
            case Stage.PROFILING:
                return self._begin_profiling(now)
            case Stage.SERVING:
                return self._begin_serving(now)
        raise AssertionError(f"no work begins in {self.stage}")

    def _nothing_pending(self) -> bool:
        return not self.fleet.queries and not self.loads.pending

    def _begin_loading(self, now: Nanos) -> Commands:
        commands: Commands = [StageEntered(Stage.LOADING.value)]
        for name, why in self._config.unusable.items():
            fields: dict[str, str | int] = {"model": name, "reason": why}
            commands.append(Report("ERROR", f"cannot load {name}: {why}", "model_failed", fields))
        if set(self.broken) - set(self._config.unusable):  # no model is left after PROFILING
            self._last_activity = None
            commands += [*self._drop_broken_models(), Report("WARNING", NO_MODEL_MEASURED, "no_models")]
        for worker in self.fleet.workers.values():
            commands += self._unload_unwanted(worker)
        for worker in self.fleet.workers.values():
            commands += self.loads.restore(worker)
        for spec in self._named:
            commands += self.loads.start(self._load_of(spec), sorted(self.fleet.workers))
        for client_id, request in self.take_early_loads():
            commands += self._load(now, client_id, request)
        return commands

    def _unload_unwanted(self, worker: WorkerState) -> Commands:
        """Unload the models of an earlier controller that the operator did not name, or named with other files."""
        wanted = {name: spec for spec in self._named for name in spec_names(spec)}
        unwanted = []
        for name, info in worker.models.items():
            spec = wanted.get(name)
            if spec is None:
                replaced = self._config.only_named
            else:
                replaced = (info.path, info.load, info.copies) != (spec.path, spec.name, spec.no_of_copies)
            if replaced:
                unwanted.append(name)
                self._state.models.pop(name, None)
        return self.fleet.unload(worker, unwanted)

    def loading_ends(self) -> Nanos | None:
        """Return when the countdown of LOADING ends, or None if no countdown runs."""
        if self.stage is not Stage.LOADING or self._last_activity is None or self.loads.pending or self._named:
            return None
        return self._last_activity + self._config.load_timeout

    def _loading_is_over(self, now: Nanos) -> bool:
        if self._named or self._config.unusable or self._config.control is not ControlMode.NONE:
            return self._nothing_pending() and not self._interrupted
        ends = self.loading_ends()
        return ends is not None and now >= ends

    def _begin_profiling(self, now: Nanos) -> Commands:
        commands: Commands = [StageEntered(Stage.PROFILING.value)]
        for worker in self.fleet.workers.values():
            commands += self.profiler.add(now, worker)
        return commands

    def _begin_serving(self, now: Nanos) -> Commands:
        self.serving_since = now
        for name in self.broken:
            self._state.models.pop(name, None)
        for key in self._numbers.keys() & self._state.models.keys():
            self._state.models[key].version = self._numbers[key]
        serving = {(model.served_as, model.version): name for name, model in self._state.models.items()}
        superfluous = sorted(self._state.models.keys() - set(serving.values()))  # of an earlier controller
        for name in superfluous:
            del self._state.models[name]
        commands: Commands = []
        if self.broken:
            total = len(self._state.models) + len(self.broken)
            text = f"{len(self._state.models)} of {total} models are served; not served: {_some(sorted(self.broken))}"
            fields: dict[str, str | int] = {"served": len(self._state.models), "broken": len(self.broken)}
            commands.append(Report("WARNING", text, "models_not_served", fields))
        self._serving.catalog.broken = self.broken
        for worker_id, worker in self.fleet.workers.items():
            self.profiler.release(worker)
            self._state.workers[worker_id] = worker
            self.fleet.phases[worker_id] = WorkerPhase.READY
        for worker in self.fleet.workers.values():
            commands += self.changes.discard(worker, [*superfluous, *sorted(self.broken)])
        return commands + self._on_serving(now)

    def _drop_broken_models(self) -> Commands:
        """Unload the broken models from the workers, none of which serves requests yet."""
        for name in self.broken:
            self._state.models.pop(name, None)
        commands: Commands = []
        for worker in self.fleet.workers.values():
            commands += self.fleet.unload(worker, [name for name in self.broken if name in worker.models])
        return commands

    def _add_ready_workers(self, now: Nanos) -> Commands:
        """Give the scheduler the workers that have become ready. A ready worker can serve all of its models."""
        commands: Commands = []
        for worker_id, worker in list(self.fleet.workers.items()):
            waits = self.loads.pending_for(worker_id) or self.changes.removes_from(worker_id)
            if self.fleet.phases[worker_id] is not WorkerPhase.KNOWN or waits:
                continue
            commands += self.profiler.add(now, worker)
            if not self.profiler.covers(worker):
                continue
            self.profiler.release(worker)
            models = self._state.models
            useless = [name for name in worker.models if name not in models or not worker.measured(models[name])]
            if useless:
                commands += self.changes.discard(worker, useless)
                continue
            self.fleet.phases[worker_id] = WorkerPhase.READY
            commands.append(worker_report("INFO", worker_id, "ready"))
            commands += self._serving.worker_joined(now, worker)
        return commands

    # --- loads -------------------------------------------------------------------------------------------------------

    def load(self, now: Nanos, client_id: int, request: LoadModelRequest) -> Commands:
        """Handle a client's request for a load. Begin the load, queue it until it can begin, or refuse it."""
        starting = self.serving_since is None and self.stage is not Stage.DRAINING
        waits = starting and self._config.control is not ControlMode.NONE
        if self.stage is not Stage.QUERYING and not waits:
            return self._load(now, client_id, request)
        if len(self._early_loads) >= self._config.max_loads:
            return [refuse_full(client_id, request, len(self._early_loads))]
        self._early_loads.append((client_id, request))
        return []

    def take_early_loads(self) -> list[tuple[int, LoadModelRequest]]:
        """Remove and return the loads that wait for LOADING."""
        early, self._early_loads = self._early_loads, []
        return early

    def _load(self, now: Nanos, client_id: int, request: LoadModelRequest) -> Commands:
        """Begin a load that a client requests, or refuse it."""
        if self.stage is Stage.SERVING and self._config.control is not ControlMode.NONE:
            return self.changes.load(now, client_id, request)
        if self.stage is not Stage.LOADING:
            text = f"models are loaded at start-up only, and the server is {self.stage.value}; restart it to load more"
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, text)]
        self._last_activity = now
        if self.loads.pending >= self._config.max_loads:
            return [refuse_full(client_id, request, self.loads.pending)]
        try:
            spec = load_spec(request.path, request.name, request.no_of_copies, self._config.max_copies)
            self.loads.check(spec)
        except InvalidRequestError as error:
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, str(error))]
        load = Load(spec, (client_id, request.id))
        return [*self.loads.start(load, sorted(self.fleet.workers)), *self.advance(now)]

    def _note_finished_loads(self, now: Nanos) -> Commands:
        commands: Commands = []
        finished, self.loads.finished = self.loads.finished, []
        for load in finished:
            if self._last_activity is not None:
                self._last_activity = now
            if not load.restores:
                self._note_broken_models(load)
                # these workers connected while the model was being loaded
                for worker_id in sorted(set(self.fleet.workers) - set(load.loaded)):
                    commands += self._align(self.fleet.workers[worker_id], load)
        if finished and self.stage is Stage.PROFILING:
            for worker_id, worker in self.fleet.workers.items():
                if not self.loads.pending_for(worker_id):
                    commands += self.profiler.add(now, worker)
        return commands

    def _load_of(self, spec: LoadSpec) -> Load:
        return Load(spec, None, partial=not self._config.strict)

    def _note_broken_models(self, load: Load) -> None:
        if not load.failed:
            for name in load.names:
                self.broken.pop(name, None)
        elif load.client is None:
            if load.only_lost_workers and load.spec not in self._tried_again and not self._config.strict:
                self._tried_again.add(load.spec)
                self._interrupted.append(load.spec)
                return
            for name in load.names:
                self.broken[name] = f"it could not be loaded: {load.describe_failures()}"

    def _try_again(self) -> Commands:
        """Repeat the next load during which a worker was lost, unless a second loss would affect pending work."""
        if not self._interrupted or not self.fleet.workers or not self._nothing_pending():
            return []
        return [*self.loads.start(self._load_of(self._interrupted.popleft()), sorted(self.fleet.workers))]

    def _end_countdown_without_models(self, now: Nanos) -> Commands:
        """If the countdown of LOADING ends and there is no model to serve, stop the countdown.

        The next load starts a new countdown.
        """
        ends = self.loading_ends()
        if ends is None or now < ends or self._state.models:
            return []
        self._last_activity = None
        return [Report("WARNING", NO_MODEL_LOADED, "no_models")]

    def _align(self, worker: WorkerState, load: Load) -> Commands:
        """Load or unload models on a worker that connected during a load.

        The worker then has the same models as the other workers.
        """
        if load.failed:
            held = [name for name in load.names if name in worker.models and name not in self._state.models]
            return self.fleet.unload(worker, held)
        return [*self._adopt(worker), *self.loads.restore(worker)]


def _some(names: list[str]) -> str:
    """Return a text with the first names and the number of the remaining names."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
