"""`ControllerWithStartupPhase`: a controller for any scheduler.

Theory of operation. Four stages, each entered once::

    QUERYING   every worker is asked for its state; leaves when all that are connected have answered, and they are
               as many as the operator said
    LOADING    clients load models; leaves ``load_timeout`` after the last activity, where activity is a load that
               begins or ends. The countdown starts with the first load of a client, begins anew with each, and does
               not run while any load is pending. Models found in QUERYING do not start it. If the operator named the
               models, LOADING ends with them
    PROFILING  what no known profile answers is measured; leaves when all is measured
    SERVING    the scheduler decides
    DRAINING   the operator has asked for the end, in whatever stage: see `clockwork.controller.draining`

A worker that connects later goes through the same by itself: it is asked, given the models that it lacks, measured if
it is of a new kind, and only then does the scheduler see it. `WorkerPhase` says where each worker is.

Requests that come before SERVING wait in a `StartupBuffer`. Their SLO counts from the hand-over, for nothing could be
done for them before it; a load that comes in QUERYING waits for LOADING.
"""

from msgspec.structs import replace

from clockwork.controller.action_results import checked_result
from clockwork.controller.buffer import StartupBuffer
from clockwork.controller.config import ControllerConfig
from clockwork.controller.description import Description, Summaries
from clockwork.controller.draining import Draining
from clockwork.controller.events import (
    ClientLost,
    ClientRequest,
    ControllerCommand,
    Drain,
    DropWorker,
    Event,
    GiveUp,
    OutputsCompared,
    Report,
    RequestsShed,
    Respond,
    ServerLoad,
    StageEntered,
    WorkerConnected,
    WorkerLost,
    WorkerResult,
    WorkerSilent,
)
from clockwork.controller.loading import Load, Loads, too_many_loads
from clockwork.controller.naming import load_spec, spec_names
from clockwork.controller.profiling import Profiler
from clockwork.controller.querying import Queries
from clockwork.controller.readiness import is_ready, note_silence, ready_workers
from clockwork.controller.reporting import worker_report
from clockwork.controller.responses import Refusable, count_refusals, refusal_response
from clockwork.controller.serving import Serving
from clockwork.controller.stage import Stage, WorkerPhase
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import UnloadModel
from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    InferRequest,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    Progress,
    StatusRequest,
    StatusResponse,
)
from clockwork.messages.results import ErrorResult, GetWorkerStateResult
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, Predictions, WorkerState
from clockwork.units import Nanos
from clockwork.version import __version__

Commands = list[ControllerCommand]


class ControllerWithStartupPhase:
    """See the module. A `Machine`."""

    def __init__(
        self,
        scheduler: Scheduler,
        config: ControllerConfig | None = None,
        profiles: dict[ProfileKey, ModelProfile] | None = None,
    ) -> None:
        """``profiles`` are those measured earlier.

        Raises:
            InvalidRequestError: a model that the operator named has an impossible name, path or number of copies.
        """
        self._config = config or ControllerConfig()
        self._scheduler = scheduler
        self._state = ClockworkState()
        self._stage = Stage.QUERYING
        self._phases: dict[str, WorkerPhase] = {}
        self._queries = Queries(self._state.action_ids, self._config.query_timeout)
        self._fleet: dict[str, WorkerState] = {}  #: workers that have told their state
        self._undone: set[int] = set()  #: UnloadModel outstanding of models that contradict the fleet's
        self._loads = Loads(self._state, self._fleet, self._config.loads_per_worker)
        self._early_loads: list[ClientRequest] = []
        self._serving_since: Nanos | None = None
        self._gave_up = False  #: start-up has failed; no further stage is entered
        self._idle_since: Nanos | None = None  #: the last activity of LOADING; None: the countdown does not run
        self._profiler = Profiler(self._state, self._config.profiling, {} if profiles is None else profiles)
        self._serving = Serving(self._state, scheduler, self._config)
        self.throttle = self._serving.throttle
        self.refuse_full = self._serving.refuse_full
        self.model = self._state.models.get
        self._draining = Draining(self._serving)
        self._buffer = StartupBuffer(self._config)
        self._summaries = Summaries(self._state)
        most = self._config.max_copies
        self._named = [load_spec(s.path, s.name, s.no_of_copies, most) for s in self._config.models]

    @property
    def stage(self) -> Stage:
        """The stage that it is in."""
        return Stage.DRAINING if self._draining.begun else self._stage

    def progress(self, now: Nanos) -> Progress:
        """How far the stage is: models loaded, or measured, of those to be."""
        if self._stage is Stage.LOADING:
            loaded = len(self._state.models)
            return Progress(loaded, loaded + len(self._loads.names() - set(self._state.models)))
        if self._stage is Stage.PROFILING:
            return self._profiler.progress(now)
        return Progress()

    def is_ready(self, model: str | None = None) -> bool:
        """Whether a request would be answered now: of any model, or of the one named."""
        return is_ready(self.stage, self._state, model)

    def handle(self, now: Nanos, event: Event) -> Commands:
        """Something happened; see `clockwork.controller.events`."""
        commands = self._happened(now, event)
        if self._draining.begun:
            return commands + self._draining.settle(now)
        return commands + self._serving.check_if_idle(now) if self._serving.checks.due else commands

    def _happened(self, now: Nanos, event: Event) -> Commands:
        if self._ended_early and not isinstance(event, ClientRequest):
            return []
        match event:
            case WorkerResult():
                return self._result(now, event)
            case ClientRequest():
                return self._request(now, event)
            case WorkerConnected():
                return self._connected(now, event.worker_id)
            case WorkerLost():
                return self._lost(now, event.worker_id, event.reason)
            case WorkerSilent():
                return [*note_silence(self._fleet.get(event.worker_id), event.silent)]
            case ClientLost():
                self._buffer.cancel(event.client_id)
                return self._serving.client_lost(now, event.client_id)
            case RequestsShed() | ServerLoad():
                return self._serving.note(now, event)
            case OutputsCompared():
                return self._serving.compared(event)
            case Drain():
                return [] if self._draining.begun else self._drain(now, event.limit)

    def wake(self, now: Nanos) -> Commands:
        """Time has passed: time-outs, deadlines, the end of LOADING."""
        if self._ended_early:
            return []
        commands: Commands = [*self._queries.give_up(now)]
        if self._stage is Stage.SERVING:
            commands += self._serving.wake(now)
            if self._draining.begun:
                return commands + self._draining.settle(now)
            return commands + self._serving.check_if_idle(now) if self._serving.checks.due else commands
        return [*commands, *count_refusals(self._serving.tally, self._buffer.expire(now)), *self._advance(now)]

    def next_wakeup(self) -> Nanos | None:
        """When time alone will change something."""
        if self._stage is Stage.SERVING:
            moments = [self._queries.next_timeout(), self._serving.next_wakeup(), self._draining.next_wakeup()]
        elif self._draining.begun:  # nothing of start-up goes on
            return None
        else:
            moments = [self._queries.next_timeout(), self._buffer.next_expiry(), self._loading_ends()]
        return min([moment for moment in moments if moment is not None], default=None)

    def refuse_early(self, client_id: int, request: InferRequest) -> Respond | None:
        """Return the refusal of a request whose inputs are not the model's, whatever their sizes, or None."""
        return self._serving.refuse_early(client_id, request) if self.stage is Stage.SERVING else None

    def predictions(self) -> Predictions:
        """What was predicted of all actions in service, held against what they did; for those who watch."""
        return self._state.predictions()

    def predicted_start(self, worker_id: str, action_id: int) -> Nanos | None:
        """When an action outstanding should begin; None if that was not predicted."""
        worker = self._fleet.get(worker_id)
        gpu = None if worker is None else worker.routes.get(action_id)
        return None if gpu is None else gpu.predicted_start(action_id)

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and checkers."""
        self._state.check_invariants()
        self._serving.check_invariants()
        for worker in self._fleet.values():
            for gpu in worker.gpus:
                gpu.check_invariants()
        assert self._stage is Stage.SERVING or not self._state.workers
        assert self._stage is not Stage.SERVING or not len(self._buffer)

    # --- workers -----------------------------------------------------------------------------------------------------

    def _connected(self, now: Nanos, worker_id: str) -> Commands:
        commands: Commands = []
        if worker_id in self._phases:
            commands += self._lost(now, worker_id, "it connected anew")
        self._phases[worker_id] = WorkerPhase.ASKED
        return [*commands, worker_report("INFO", worker_id, "connected"), self._queries.ask(now, worker_id)]

    def _lost(self, now: Nanos, worker_id: str, reason: str) -> Commands:
        phase = self._phases.pop(worker_id, None)
        if phase is None:
            return []
        commands: Commands = [worker_report("WARNING", worker_id, "lost", reason)]
        self._queries.forget(worker_id)
        worker = self._fleet.pop(worker_id, None)
        if worker is not None:
            worker.leave()
            commands += self._loads.worker_lost(worker_id)
            commands += self._profiler.worker_lost(now, worker)
        if worker is not None and phase is WorkerPhase.READY:
            commands += self._serving.worker_lost(now, worker)
        return commands + self._advance(now)

    def _result(self, now: Nanos, event: WorkerResult) -> Commands:
        result, worker_id = event.result, event.worker_id
        worker = self._fleet.get(worker_id)
        if worker is not None and result.id in worker.routes:
            if self._phases[worker_id] is WorkerPhase.READY:
                return self._serving.result(now, worker, result, event.payloads)
            gpu = worker.routes[result.id]
            action = gpu.outstanding[result.id]
            result = checked_result(self._state, action, result)
            if not gpu.settle(action, result):
                return [DropWorker(worker_id, f"it disagrees about the weights on {gpu}: {result}")]
            return [*self._profiler.result(now, gpu, action, result), *self._advance(now)]
        if (round_trip := self._queries.answered(now, worker_id, result.id)) is not None:
            return self._told(now, worker_id, result, round_trip)
        if self._loads.owns(worker_id, result.id):
            commands: Commands = [*self._loads.result(worker_id, result)]
            return commands + self._advance(now)
        if result.id in self._undone:
            self._undone.discard(result.id)
            return []
        return [Report("WARNING", f"worker {worker_id} sent a result of an action that it was not given: {result}")]

    def _told(self, now: Nanos, worker_id: str, result: object, round_trip: Nanos) -> Commands:
        """A worker has answered GetWorkerState."""
        if not isinstance(result, GetWorkerStateResult):
            message = result.message if isinstance(result, ErrorResult) else f"it sent {result!r}"
            return [DropWorker(worker_id, f"it could not tell its state: {message}")]
        if not result.worker.gpus:
            return [DropWorker(worker_id, "it has no devices")]
        try:
            worker = WorkerState(worker_id, result.worker, self._state.action_ids, self._state.holders)
        except ValueError as error:
            return [DropWorker(worker_id, str(error))]
        worker.round_trip = round_trip
        self._fleet[worker_id] = worker
        self._phases[worker_id] = WorkerPhase.KNOWN
        commands = self._adopt(worker)
        if self._stage is Stage.LOADING:  # the others may lack what it brings
            for known in self._fleet.values():
                commands += self._loads.restore(known)
        elif self._stage is not Stage.QUERYING:
            commands += self._loads.restore(worker)
        if self._stage is Stage.PROFILING and not self._loads.pending_for(worker_id):
            commands += self._profiler.add(now, worker)
        return commands + self._advance(now)

    def _adopt(self, worker: WorkerState) -> Commands:
        """Take the models that a worker brings into the fleet's, until LOADING ends; unload what contradicts it.

        What a load is about is left to `_note_finished_loads`.
        """
        wrong = []
        being_loaded = self._loads.names()
        for name, info in list(worker.models.items()):
            known = self._state.models.get(name)
            if known is not None and known.info.digest != info.digest:
                wrong.append(name)
            elif known is None and self._stage in (Stage.QUERYING, Stage.LOADING) and name not in being_loaded:
                self._state.add_model(info)
        if not wrong:
            return []
        text = f"worker {worker.id} holds other content as {', '.join(wrong)} than the fleet: it must load that anew"
        return [Report("WARNING", text), *self._unload(worker, wrong)]

    def _unload(self, worker: WorkerState, names: list[str]) -> Commands:
        """Take models off a worker that does not serve yet."""
        if not names:
            return []
        for name in names:
            worker.forget(name)
        action = UnloadModel(self._state.action_ids.next(), tuple(names))
        self._undone.add(action.id)
        return [SendAction(worker.id, action)]

    # --- stages ------------------------------------------------------------------------------------------------------

    def _advance(self, now: Nanos) -> Commands:
        """Leave stages, and take workers into service, as far as things stand."""
        commands = self._note_finished_loads(now)
        if self._gave_up:
            return commands
        if self._stage is Stage.QUERYING and not self._queries and len(self._fleet) >= self._config.workers:
            commands += self._enter_loading(now)
        if self._stage is Stage.LOADING and self._loading_is_over(now):
            commands += self._enter_profiling(now)
        if self._stage is Stage.PROFILING and self._fleet and self._all_known() and not self._profiler.busy:
            commands += self._enter_serving(now)
        if self._stage is Stage.SERVING:
            commands += self._take_in(now)
        return commands

    def _note_finished_loads(self, now: Nanos) -> Commands:
        commands: Commands = []
        finished, self._loads.finished = self._loads.finished, []
        for load in finished:
            if self._idle_since is not None:
                self._idle_since = now
            if load.failed and load.client is None and not load.restores:
                self._gave_up = True
                commands.append(GiveUp(f"cannot load {load.spec.path}: {load.describe_failures()}"))
            if not load.restores:
                for worker_id in sorted(set(self._fleet) - set(load.made)):  # workers that came meanwhile
                    commands += self._align(self._fleet[worker_id], load)
        if finished and self._stage is Stage.PROFILING:
            for worker_id, worker in self._fleet.items():
                if not self._loads.pending_for(worker_id):
                    commands += self._profiler.add(now, worker)
        return commands

    def _align(self, worker: WorkerState, load: Load) -> Commands:
        """A load is over in which the worker, which has come since, had no part; but it may hold these models."""
        if load.failed:
            held = [name for name in load.names if name in worker.models and name not in self._state.models]
            return self._unload(worker, held)
        return [*self._adopt(worker), *self._loads.restore(worker)]

    def _all_known(self) -> bool:
        return not self._queries and not self._loads.pending

    def _enter_loading(self, now: Nanos) -> Commands:
        self._stage = Stage.LOADING
        commands: Commands = [StageEntered(Stage.LOADING.value)]
        for worker in self._fleet.values():
            commands += self._loads.restore(worker)
        for spec in self._named:
            commands += self._loads.start(Load(spec, None), sorted(self._fleet))
        early, self._early_loads = self._early_loads, []
        for event in early:
            assert isinstance(event.request, LoadModelRequest)
            commands += self._load(now, event.client_id, event.request)
        return commands

    def _loading_ends(self) -> Nanos | None:
        """When the countdown of LOADING ends, if it runs."""
        if self._stage is not Stage.LOADING or self._idle_since is None or self._loads.pending or self._named:
            return None
        return self._idle_since + self._config.load_timeout

    def _loading_is_over(self, now: Nanos) -> bool:
        if self._named:
            return self._all_known()
        ends = self._loading_ends()
        return ends is not None and now >= ends

    def _enter_profiling(self, now: Nanos) -> Commands:
        self._stage = Stage.PROFILING
        commands: Commands = [StageEntered(Stage.PROFILING.value)]
        for worker in self._fleet.values():
            commands += self._profiler.add(now, worker)
        return commands

    def _enter_serving(self, now: Nanos) -> Commands:
        self._stage = Stage.SERVING
        self._serving_since = now
        commands: Commands = []
        for name, why in self._profiler.broken.items():
            self._state.models.pop(name, None)
            if any(name in spec_names(spec) for spec in self._named):
                commands.append(GiveUp(f"cannot serve {name}: {why}"))
        self._serving.broken = self._profiler.broken
        for worker_id, worker in self._fleet.items():
            self._profiler.release(worker)
            self._state.workers[worker_id] = worker
            self._phases[worker_id] = WorkerPhase.READY
        commands += self._serving.start(now)
        commands.append(StageEntered(Stage.SERVING.value))
        for event in self._buffer.take_all():
            commands += self._request(now, replace(event, arrival=None))  # the SLO counts from the hand-over
        return commands

    def _take_in(self, now: Nanos) -> Commands:
        """Give the scheduler the workers that are ready for it."""
        commands: Commands = []
        for worker_id, worker in list(self._fleet.items()):
            if self._phases[worker_id] is not WorkerPhase.KNOWN or self._loads.pending_for(worker_id):
                continue
            commands += self._profiler.add(now, worker)
            if not self._profiler.covers(worker):
                continue
            self._profiler.release(worker)
            unmeasured = [name for name, model in self._state.models.items() if not worker.measured(model)]
            commands += self._unload(worker, [name for name in unmeasured if name in worker.models])
            self._phases[worker_id] = WorkerPhase.READY
            commands.append(worker_report("INFO", worker_id, "ready"))
            commands += self._serving.worker_joined(now, worker)
        return commands

    @property
    def _ended_early(self) -> bool:
        """Whether it was asked to end before it served: then nothing of start-up goes on."""
        return self._draining.begun and self._stage is not Stage.SERVING

    def _drain(self, now: Nanos, limit: Nanos) -> Commands:
        """The operator asks for the end."""
        commands: Commands = [StageEntered(Stage.DRAINING.value), self._draining.begin(now, limit)]
        for event in [*self._buffer.take_all(), *self._early_loads]:
            commands += self._request(now, event)  # who waits for a start that will not be is refused
        return [*commands, *self._loads.shut_down(self._draining.text)]

    # --- clients -----------------------------------------------------------------------------------------------------

    def _request(self, now: Nanos, event: ClientRequest) -> Commands:
        client_id, request = event.client_id, event.request
        if self._draining.begun and isinstance(request, Refusable):
            return [self._draining.refuse(client_id, request)]
        match request:
            case InferRequest() if event.wrong:
                return [self._serving.refuse(client_id, request, Status.INVALID_REQUEST, event.wrong)]
            case InferRequest() if self._stage is Stage.SERVING:
                return self._serving.infer(now, client_id, request, event.payload, event.arrival, event.shared)
            case ListModelsRequest() if self._stage is Stage.SERVING:
                models = self._summaries.after(self._profiler.assigned)
                return [Respond(client_id, ListModelsResponse(request.id, Status.SUCCESS, "", models))]
            case InferRequest() | ListModelsRequest():
                return [*count_refusals(self._serving.tally, self._buffer.add(now, event))]
            case CancelRequest():
                self._buffer.cancel(client_id, request.id)
                return self._serving.cancel(now, client_id, request.id)
            case LoadModelRequest() if self._stage is Stage.QUERYING:
                if len(self._early_loads) >= self._config.max_loads:
                    text = too_many_loads(len(self._early_loads))
                    return [refusal_response(client_id, request, Status.INITIALIZING, text)]
                self._early_loads.append(event)
                return []
            case LoadModelRequest():
                return self._load(now, client_id, request)
            case EvictRequest() if self._stage is Stage.SERVING:
                return self._serving.evict(now, client_id, request)
            case EvictRequest():
                text = f"the server is starting up ({self._stage.value})"
                return [refusal_response(client_id, request, Status.INITIALIZING, text)]
            case StatusRequest():
                return [Respond(client_id, StatusResponse(request.id, self.description(now).server()))]

    def _load(self, now: Nanos, client_id: int, request: LoadModelRequest) -> Commands:
        if self._stage is not Stage.LOADING:
            text = f"models are loaded at start-up only, and that is over ({self._stage.value}): restart to load more"
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, text)]
        self._idle_since = now
        try:
            spec = load_spec(request.path, request.name, request.no_of_copies, self._config.max_copies)
            self._loads.check(spec, self._config.max_loads)
        except InvalidRequestError as error:
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, str(error))]
        commands: Commands = [*self._loads.start(Load(spec, (client_id, request.id)), sorted(self._fleet))]
        return commands + self._advance(now)

    def description(self, now: Nanos) -> Description:
        """What there is to say of the server."""
        return Description(
            __version__,
            type(self._scheduler).name or type(self._scheduler).__name__,
            self.stage.value,
            self.progress(now),
            self._serving.pending + len(self._buffer),
            self._fleet,
            ready_workers(self._fleet, self._phases),
            self._state,
            self._serving.tally,
            self._profiler.broken,
            0 if self._serving_since is None else now - self._serving_since,
        )
