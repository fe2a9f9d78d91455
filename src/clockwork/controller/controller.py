"""Defines `ControllerWithStartupPhase`, which is a controller for any scheduler.

`clockwork.controller.startup` handles all stages before SERVING. `clockwork.controller.serving` implements SERVING, and
`clockwork.controller.draining` ends the server. This module passes each event to one of these parts. A request that
needs none of these parts is answered in this module.

Requests that arrive before SERVING wait in a `StartupBuffer`. When SERVING begins, they are passed to the scheduler in
pieces of `PIECE` requests, one piece for each event or wake-up. The commands of an event are executed after the event.
So if all requests were handled in one event, the actions for the first request would be sent only after the scheduler
had planned the last request, and every action would start later than planned.
"""

from typing import Final

from clockwork.controller.buffer import StartupBuffer
from clockwork.controller.config import ControllerConfig, ControlMode
from clockwork.controller.description import Description, Summaries, is_ready
from clockwork.controller.desired import DesiredSet
from clockwork.controller.draining import Draining
from clockwork.controller.events import (
    ClientLost,
    ClientRequest,
    ControllerCommand,
    Drain,
    Event,
    ModelDescribed,
    OutputsCompared,
    RequestsShed,
    Respond,
    ServerLoad,
    ShadowCompared,
    StageEntered,
    WorkerConnected,
    WorkerLost,
    WorkerResult,
    WorkerSilent,
)
from clockwork.controller.responses import Refusable, count_refusals, refusal_response
from clockwork.controller.serving import Serving
from clockwork.controller.stage import Stage, WorkerPhase
from clockwork.controller.startup import Startup
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    ExplainRequest,
    InferRequest,
    ListModelsRequest,
    ListModelsResponse,
    ListRequestsRequest,
    LoadModelRequest,
    Progress,
    PromoteRequest,
    ShadowRequest,
    StatusRequest,
    StatusResponse,
    UnloadModelRequest,
)
from clockwork.messages.scaling import KindScaling
from clockwork.messages.status import Status
from clockwork.messages.timeline import TimelineRequest
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, Predictions
from clockwork.units import Nanos
from clockwork.version import __version__

Commands = list[ControllerCommand]

PIECE: Final = 16
"""Number of requests that one wake-up passes from the buffer to the scheduler. Planning them takes about 1 ms."""


class ControllerWithStartupPhase:
    """The controller as a `Machine`. The controller handles `Event` objects and returns `ControllerCommand` objects."""

    def __init__(
        self,
        scheduler: Scheduler,
        config: ControllerConfig | None = None,
        profiles: dict[ProfileKey, ModelProfile] | None = None,
    ) -> None:
        """``profiles`` contains the profiles that were measured earlier. The controller adds new profiles.

        Raises:
            InvalidRequestError: a model that the operator named has an impossible name, path or number of copies.
        """
        self._config = config or ControllerConfig()
        self._scheduler = scheduler
        self._state = ClockworkState()
        known = {} if profiles is None else profiles
        self._serving = Serving(self._state, scheduler, self._config, known)
        self._startup = Startup(
            state=self._state,
            config=self._config,
            profiles=known,
            serving=self._serving,
            on_serving=self._begin_serving,
        )
        self._fleet = self._startup.fleet
        self._changes = self._startup.changes
        self._desired = DesiredSet(
            self._config, self._serving.catalog, self._fleet, self._startup.specs, self._serving.own.shadows
        )
        self._draining = Draining(self._serving)
        self._buffer = StartupBuffer(self._config)
        self._released: Nanos = 0  #: time at which requests were last taken from the buffer
        self._summaries = Summaries(self._serving.catalog)
        self._explaining, self._timeline = self._serving.explaining(), self._serving.timeline()
        self.throttle = self._serving.throttle
        self.refuse_full = self._serving.refusing.refuse_full
        self.catalog = self._serving.catalog

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self._startup.stage

    @property
    def joining(self) -> bool:
        """Whether a connected worker does not serve yet."""
        return any(phase is not WorkerPhase.READY for phase in self._fleet.phases.values())

    @property
    def changing(self) -> bool:
        """Whether a model is being loaded, measured or unloaded while the server serves."""
        return self._changes.busy or self._serving.own.measuring.pending

    def models(self) -> dict[str, str]:
        """Map each model's name on workers to the name under which it is served."""
        return {key: model.served_as for key, model in self._state.models.items()}

    def progress(self, now: Nanos) -> Progress:
        """Return the progress of the current stage."""
        return self._startup.progress(now)

    def is_ready(self, model: str | None = None, version: str = "") -> bool:
        """Return whether the server would serve a request for ``model`` now.

        If ``model`` is empty, return whether any model is served.
        """
        return is_ready(self.stage, self._state, self._serving.catalog, model, version)

    def handle(self, now: Nanos, event: Event) -> Commands:
        """Handle an event; see `clockwork.controller.events`."""
        return self._with_save(self._settle(now, self._dispatch(now, event)))

    def _settle(self, now: Nanos, commands: Commands) -> Commands:
        """Take every step that is possible after an event or a wake-up."""
        own = self._serving.own
        if self._startup.serving_since is not None and self._changes.busy:
            commands += self._changes.settle(now)
        if self._startup.serving_since is not None and own.shadows.unsettled:
            commands += own.shadows.settle()
        if self._draining.begun:
            return commands + self._draining.settle(now)
        if own.due:
            commands += self._serving.begin_own(now)
            if own.measuring.progress:  # true if the scheduler answered the request at once
                commands += self._changes.settle(now)
        return commands

    def _dispatch(self, now: Nanos, event: Event) -> Commands:
        if self._startup.ended_early and not isinstance(event, ClientRequest):
            return []
        match event:
            case WorkerResult():
                return self._result(now, event)
            case ClientRequest():
                return self._request(now, event)
            case WorkerConnected():
                return self._startup.worker_connected(now, event)
            case WorkerLost():
                return self._startup.worker_lost(now, event.worker_id, event.reason)
            case ModelDescribed():
                return [*self._startup.pushes.described(event), *self._startup.advance(now)]
            case WorkerSilent():
                return [*self._fleet.note_silence(event.worker_id, event.silent)]
            case ClientLost():
                self._buffer.cancel(event.client_id)
                return self._serving.client_lost(now, event.client_id)
            case RequestsShed() | ServerLoad():
                return self._serving.note(now, event)
            case OutputsCompared() | ShadowCompared():
                return self._serving.own.compared(event)
            case Drain():
                return [] if self._draining.begun else self._drain(now, event.limit)

    def wake(self, now: Nanos) -> Commands:
        """Handle time-outs, deadlines, the end of LOADING, and everything else that is due now."""
        startup = self._startup
        if startup.ended_early:
            return []
        commands: Commands = [*self._fleet.queries.give_up(now)]
        if startup.serving_since is None:
            return self._with_save([*commands, *self._expire_buffered(now), *startup.advance(now)])
        return self._with_save(self._settle(now, commands + self._serving.wake(now) + self._release(now)))

    def _with_save(self, commands: Commands) -> Commands:
        """Put a `SaveModels` before the commands if the models that a restart should serve have changed."""
        if self._config.saves_models and self.stage is Stage.SERVING and (changes := self._desired.changes()):
            return changes + commands
        return commands

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `wake` next. None means that nothing is due before the next event."""
        startup = self._startup
        if startup.serving_since is not None:
            moments = [self._fleet.queries.next_timeout(), self._serving.next_wakeup(), self._draining.next_wakeup()]
            if not self._draining.begun:
                moments.append(self._serving.own.next_wakeup())
            if len(self._buffer):
                moments.append(self._released)
        elif self._draining.begun:  # start-up has been abandoned
            return None
        else:
            moments = [self._fleet.queries.next_timeout(), self._buffer.next_expiry(), startup.loading_ends()]
            moments.append(startup.querying_ends())
        return min([moment for moment in moments if moment is not None], default=None)

    def paths_in_use(self) -> set[str]:
        """Return the paths of all models that are loaded, being loaded, or about to be loaded."""
        return self._startup.paths() | self._changes.paths()

    def refuse_early(self, now: Nanos, client_id: int, request: InferRequest) -> Respond | None:
        """Return a refusal if the model does not accept the request's inputs. Otherwise, return None.

        Sizes are not checked.
        """
        return self._serving.refusing.refuse_early(now, client_id, request) if self.stage is Stage.SERVING else None

    def predictions(self) -> Predictions:
        """Return the errors of the predictions of all actions in service."""
        return self._state.predictions()

    def scaling(self, now: Nanos) -> tuple[KindScaling, ...]:
        """Return how many devices of each kind are wanted, and why."""
        return self._serving.tally.scaling.kinds(now)

    def predicted_start(self, worker_id: str, action_id: int) -> Nanos | None:
        """Return the predicted start of an outstanding action, or None if there is no prediction."""
        worker = self._fleet.workers.get(worker_id)
        gpu = None if worker is None else worker.routes.get(action_id)
        return None if gpu is None else gpu.predicted_start(action_id)

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self._state.check_invariants()
        self._serving.check_invariants()
        self._changes.check_invariants()
        for worker in self._fleet.workers.values():
            for gpu in worker.gpus:
                gpu.check_invariants()
        has_served = self._startup.serving_since is not None
        assert has_served or not self._state.workers
        assert not self._draining.begun or not len(self._buffer)

    def _result(self, now: Nanos, event: WorkerResult) -> Commands:
        worker_id = event.worker_id
        worker = self._fleet.workers.get(worker_id)
        if (
            worker is None
            or event.result.id not in worker.routes
            or self._fleet.phases[worker_id] is not WorkerPhase.READY
        ):
            return self._startup.result(now, worker_id, event.result)
        return self._serving.result(now, worker, event.result, event.payloads)

    def _begin_serving(self, now: Nanos) -> Commands:
        """Start the scheduler, and begin to pass the requests that waited for SERVING to it."""
        commands = self._serving.start(now)
        commands.append(StageEntered(Stage.SERVING.value))
        for client_id, request in self._startup.take_early_loads():
            commands += self._startup.load(now, client_id, request)
        return commands + self._release(now)

    def _release(self, now: Nanos) -> Commands:
        """Pass the next piece of the requests that waited for SERVING to the scheduler."""
        if not len(self._buffer):
            return []
        self._released = now
        commands = self._expire_buffered(now)
        for event in self._buffer.take(PIECE):
            commands += self._request(now, event)
        return commands

    def _expire_buffered(self, now: Nanos) -> Commands:
        return [*count_refusals(self._serving.tally, self._buffer.expire(now))]

    def _drain(self, now: Nanos, limit: Nanos) -> Commands:
        """Begin the drain. Also refuse the requests that waited for SERVING and were not passed to the scheduler."""
        commands: Commands = [self._startup.drain(), self._draining.begin(now, limit)]
        for event in self._buffer.take(len(self._buffer)):
            commands += self._request(now, event)
        for client_id, request in self._startup.take_early_loads():
            commands.append(self._draining.refuse(now, client_id, request))
        return [
            *commands,
            *self._startup.loads.shut_down(self._draining.text),
            *self._changes.shut_down(self._draining.text),
        ]

    def _request(self, now: Nanos, event: ClientRequest) -> Commands:
        client_id, request = event.client_id, event.request
        if self._draining.begun and isinstance(request, Refusable):
            return [self._draining.refuse(now, client_id, request)]
        match request:
            case InferRequest() if event.wrong:
                return [self._serving.refusing.refuse(now, client_id, request, Status.INVALID_REQUEST, event.wrong)]
            case InferRequest() if self._startup.serving_since is not None:
                return self._serving.infer(now, client_id, request, event.payload, event.arrival, event.shared)
            case ListModelsRequest() if self._startup.serving_since is not None:
                models = self._summaries.after(self._startup.profiler.assigned)
                return [Respond(client_id, ListModelsResponse(request.id, Status.SUCCESS, "", models))]
            case InferRequest() | ListModelsRequest():
                return [*count_refusals(self._serving.tally, self._buffer.add(now, event))]
            case CancelRequest():
                self._buffer.cancel(client_id, request.id)
                return self._serving.cancel(now, client_id, request.id)
            case LoadModelRequest():
                return self._startup.load(now, client_id, request)
            case UnloadModelRequest() | PromoteRequest():
                return self._change(now, client_id, request)
            case EvictRequest() if self._startup.serving_since is not None:
                return self._serving.evict(now, client_id, request)
            case ShadowRequest() if self._startup.serving_since is not None:
                return self._serving.own.shadows.change(client_id, request)
            case EvictRequest() | ShadowRequest():
                text = f"the server is starting up ({self.stage.value}); retry later"
                return [refusal_response(client_id, request, Status.INITIALIZING, text)]
            case ListRequestsRequest():
                return [self._explaining.listed(now, client_id, request)]
            case ExplainRequest():
                return self._explaining.explained(now, client_id, request)
            case TimelineRequest():
                return self._timeline.read(now, client_id, request, self._serving.pending)
            case StatusRequest():
                return [Respond(client_id, StatusResponse(request.id, self.description(now).server()))]

    def _change(self, now: Nanos, client_id: int, request: UnloadModelRequest | PromoteRequest) -> Commands:
        """Handle a request that changes the served models. Before SERVING, `Startup` handles loads."""
        if self._config.control is ControlMode.NONE:
            text = "models are fixed after start-up; to change them while serving: --model-control-mode explicit"
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, text)]
        if self._startup.serving_since is None:
            text = f"the server is starting up ({self.stage.value}); retry later"
            return [refusal_response(client_id, request, Status.INITIALIZING, text)]
        if isinstance(request, PromoteRequest):
            return self._changes.promote(client_id, request)
        return self._changes.unload(now, client_id, request)

    def description(self, now: Nanos) -> Description:
        """Return a description of the server, for clients, for ``clockwork status`` and for metrics."""
        since = self._startup.serving_since
        return Description(
            version=__version__,
            scheduler=type(self._scheduler).name or type(self._scheduler).__name__,
            stage=self.stage.value,
            progress=self.progress(now),
            outstanding=self._serving.pending + len(self._buffer),
            fleet=self._fleet.workers,
            ready=self._fleet.ready(),
            state=self._state,
            catalog=self._serving.catalog,
            started=since is not None,
            tally=self._serving.tally,
            broken=self._startup.profiler.broken,
            serving_ns=0 if since is None else now - since,
            now=now,
            default_slo=self._serving.admission.default_slo,
            shadows=self._serving.own.shadows,
            scaling=() if since is None else self.scaling(now),
        )
