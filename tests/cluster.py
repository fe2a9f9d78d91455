"""Runs a controller, workers and clients without a network. Tests advance the clock.

Results arrive when a `FakeWorker` has them, and the controller is woken at its wake-up times. After every event, the
cluster checks two kinds of invariants: those of the controller itself, and those that only an observer of all parts can
check.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from clockwork.controller.config import ControllerConfig, ControlMode, LoadSpec, ProfilingConfig
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.events import (
    ClientLost,
    ClientRequest,
    CompareOutputs,
    CompareShadow,
    ControllerCommand,
    DescribeModel,
    DropWorker,
    Event,
    GiveUp,
    ModelDescribed,
    OutputsCompared,
    Report,
    Respond,
    SaveProfile,
    ShadowCompared,
    StageEntered,
    WorkerConnected,
    WorkerLost,
    WorkerResult,
)
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Action, LoadModelFromDisk
from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import CancelRequest, LoadModelRequest, Request, Response, StatusResponse
from clockwork.messages.results import InferResult, Result
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState
from clockwork.units import Nanos, seconds
from fake_worker import FakeWorker, File

#: Few measurements keep tests readable.
QUICK = ProfilingConfig(max_batch_size=2, warmups=1, min_samples=1, max_samples=1)

Asked = tuple[int, int]
"""A request, as (client, id of the request)."""

ActionT = TypeVar("ActionT", bound=Action)
ActionT_co = TypeVar("ActionT_co", bound=Action, covariant=True)


class Sent(Protocol[ActionT_co]):
    """A `SendAction` whose action is of a known type."""

    @property
    def worker_id(self) -> str: ...
    @property
    def action(self) -> ActionT_co: ...
    @property
    def payloads(self) -> tuple[object, ...]: ...


def quick_config(
    *,
    workers: int = 1,
    models: tuple[LoadSpec, ...] = (),
    load_timeout: Nanos = seconds(10),
    initializing_timeout: Nanos = seconds(10),
    max_pending: int = 10_000,
    profiling: ProfilingConfig = QUICK,
    strict: bool = False,
    control: ControlMode = ControlMode.NONE,
    **settings: Any,
) -> ControllerConfig:
    """Return the default configuration with few measurements; ``settings`` are further fields."""
    return ControllerConfig(
        workers=workers,
        models=models,
        load_timeout=load_timeout,
        initializing_timeout=initializing_timeout,
        max_pending=max_pending,
        profiling=profiling,
        strict=strict,
        control=control,
        **settings,
    )


class Cluster:
    """A controller with its workers and clients; see the module's docstring.

    ``said`` contains every command in order, with its time. ``story`` also contains the workers' results.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        config: ControllerConfig | None = None,
        profiles: dict[ProfileKey, ModelProfile] | None = None,
    ) -> None:
        self.config = config or quick_config()
        self.controller = ControllerWithStartupPhase(scheduler, self.config, profiles)
        self.now: Nanos = 0
        self.workers: dict[str, FakeWorker] = {}  #: the connected workers
        self.said: list[tuple[Nanos, ControllerCommand]] = []
        self.story: list[tuple[Nanos, ControllerCommand | WorkerResult]] = []
        self.asked: dict[Asked, Request] = {}  #: every request that needs a response
        self.cancelled: set[Asked] = (
            set()
        )  #: requests without a response that were cancelled or whose client disconnected
        self.answers: Counter[Asked] = Counter()
        #: returns the difference between outputs; None if they could not be compared
        self.differs: Callable[[CompareOutputs], str | None] = lambda command: ""
        #: compares the outputs of a live request and of its copy
        self.compares: Callable[[CompareShadow], ShadowCompared] = lambda command: ShadowCompared(command.check_id)
        #: describes the files of a model; None if the answer comes later
        self.describes: Callable[[DescribeModel], ModelDescribed | None] = lambda command: ModelDescribed(
            command.path, command.name, f"content of {command.path}", 1000
        )
        self._inbox: deque[Event] = deque()

    # --- what happens ------------------------------------------------------------------------------------------------

    def connect(self, worker: FakeWorker) -> None:
        """Connect a worker."""
        if worker.id in self.workers:
            self.workers[worker.id].reset()
        worker.now = self.now
        self.workers[worker.id] = worker
        self.feed(WorkerConnected(worker.id, accepts=worker.accepts))

    def lose(self, worker_id: str, reason: str = "killed") -> FakeWorker:
        """End a worker's connection. A later connection may have the worker's models again."""
        worker = self.workers.pop(worker_id)
        worker.reset()
        self.feed(WorkerLost(worker_id, reason))
        return worker

    def ask(
        self, request: Request, client_id: int = 1, payload: object = "payload", arrival: Nanos | None = None
    ) -> None:
        """Send a client's request. `ClientRequest` explains ``arrival``."""
        asked = (client_id, request.id)
        if isinstance(request, CancelRequest):
            if not self.answers[asked]:
                self.cancelled.add(asked)
        else:
            assert asked not in self.asked, "tests use an id once"
            self.asked[asked] = request
        self.feed(ClientRequest(client_id, request, payload, arrival=arrival))

    def lose_client(self, client_id: int) -> None:
        """End a client's connection."""
        self.cancelled |= {asked for asked in self.asked if asked[0] == client_id and not self.answers[asked]}
        self.feed(ClientLost(client_id))

    def load(self, path: str, id: int, *, name: str = "", copies: int = 1, client_id: int = 1) -> None:
        """Load a model on behalf of a client."""
        self.ask(LoadModelRequest(id, path, name, copies), client_id)

    def run_until(self, when: Nanos) -> None:
        """Advance the clock and handle all events until then."""
        while (moment := self._next_moment()) is not None and moment <= when:
            self.now = max(self.now, moment)
            for worker_id, worker in sorted(self.workers.items()):
                at = worker.next_at()
                if at is not None and at <= self.now:
                    for result in worker.step(self.now):
                        self.feed(WorkerResult(worker_id, result, _payloads(result)))
            wakeup = self.controller.next_wakeup()
            if wakeup is not None and wakeup <= self.now:
                self._carry_out(self.controller.wake(self.now))
                self._drain()
        self.now = max(self.now, when)

    def feed(self, event: Event) -> None:
        """Pass an event to the controller now."""
        self._inbox.append(event)
        self._drain()

    # --- what came of it ---------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The controller's stage."""
        return self.controller.stage

    @property
    def state(self) -> ClockworkState:
        """The state that the scheduler gets."""
        return self.controller._state

    def responses(self) -> list[Response]:
        """All responses to clients, in their order."""
        return [command.response for _, command in self.said if isinstance(command, Respond)]

    def answer(self, id: int, client_id: int = 1) -> Response | None:
        """Return the response to a client's request, or None if there is none yet."""
        mine = [c.response for _, c in self.said if isinstance(c, Respond) and c.client_id == client_id]
        return next((response for response in mine if response.id == id), None)

    def statuses(self) -> list[int]:
        """The statuses of all responses to clients, in their order."""
        return [response.status for response in self.responses() if not isinstance(response, StatusResponse)]

    def sent(self, worker_id: str | None = None) -> list[SendAction]:
        """Return all actions that were sent, or only those sent to one worker."""
        sent = [command for _, command in self.said if isinstance(command, SendAction)]
        return [send for send in sent if worker_id in (None, send.worker_id)]

    def actions(self, kind: type[ActionT], worker_id: str | None = None) -> list[Sent[ActionT]]:
        """Return all actions of one type that were sent, or only those sent to one worker."""
        return cast("list[Sent[ActionT]]", [send for send in self.sent(worker_id) if isinstance(send.action, kind)])

    def saved(self) -> list[SaveProfile]:
        """The profiles that the controller asked to store."""
        return [command for _, command in self.said if isinstance(command, SaveProfile)]

    def reports(self, level: str) -> list[str]:
        """Return the reports for the operator with this level."""
        return [c.text for _, c in self.said if isinstance(c, Report) and c.level == level]

    def stages(self) -> list[tuple[Nanos, str]]:
        """The stages, with the times at which they were entered."""
        return [(at, command.stage) for at, command in self.said if isinstance(command, StageEntered)]

    def gave_up(self) -> list[str]:
        """The reasons why the controller gave up. The list is empty if it did not give up."""
        return [command.reason for _, command in self.said if isinstance(command, GiveUp)]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _next_moment(self) -> Nanos | None:
        moments = [self.controller.next_wakeup(), *(worker.next_at() for worker in self.workers.values())]
        return min((moment for moment in moments if moment is not None), default=None)

    def _drain(self) -> None:
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, WorkerResult):
                if event.worker_id not in self.workers:
                    continue
                self.story.append((self.now, event))
            self._carry_out(self.controller.handle(self.now, event))

    def _carry_out(self, commands: Sequence[ControllerCommand]) -> None:
        for command in commands:
            self.said.append((self.now, command))
            self.story.append((self.now, command))
            match command:
                case SendAction(worker_id=worker_id, action=action):
                    self._check_action(command)
                    if worker_id in self.workers:
                        self.workers[worker_id].send(self.now, action)
                case Respond(client_id=client_id, response=response):
                    self._check_answer((client_id, response.id))
                case CompareOutputs(check_id=check_id):
                    difference = self.differs(command)
                    if difference is not None:
                        self._inbox.append(OutputsCompared(check_id, difference))
                case CompareShadow():
                    self._inbox.append(self.compares(command))
                case DescribeModel():
                    answer = self.describes(command)
                    if answer is not None:
                        self._inbox.append(answer)
                case DropWorker(worker_id=worker_id, reason=reason):
                    if worker_id in self.workers:
                        self.workers.pop(worker_id).reset()
                        self._inbox.append(WorkerLost(worker_id, reason))
        self.check_invariants()

    def _check_action(self, send: SendAction) -> None:
        fixed = self.config.control is ControlMode.NONE
        if fixed and self.stage is Stage.SERVING and isinstance(send.action, LoadModelFromDisk):
            served = {state.info.load for state in self.state.models.values()}
            assert send.action.name in served, f"a new model is loaded after the hand-over: {send.action}"

    def _check_answer(self, asked: Asked) -> None:
        assert asked in self.asked, f"nobody asked {asked}"
        assert asked not in self.cancelled, f"{asked} was cancelled and is answered"
        self.answers[asked] += 1
        assert self.answers[asked] == 1, f"{asked} is answered twice"

    def check_invariants(self) -> None:
        """Assert the invariants."""
        self.controller.check_invariants()
        for worker in self.workers.values():
            assert not worker.contradictions, worker.contradictions
            for gpu in worker.gpus:
                assert 0 <= gpu.used <= gpu.pages

    def check_rest(self) -> None:
        """Assert that the controller's view of each idle serving worker equals the worker's state."""
        for worker_id, known in self.state.workers.items():
            worker = self.workers.get(worker_id)
            if worker is None or worker.outstanding():
                continue
            assert sorted(known.models) == sorted(worker.models)
            for picture, truth in zip(known.gpus, worker.gpus, strict=True):
                assert not picture.outstanding, f"{picture} waits for {picture.outstanding}"
                assert {name: picture.cache.pages_of(name) for name in picture.cache} == truth.weights

    def check_all_answered(self) -> None:
        """Assert that no request is pending."""
        waiting = [self.asked[a] for a in self.asked if not self.answers[a] and a not in self.cancelled]
        assert not waiting, f"never answered: {waiting}"


def _payloads(result: Result) -> tuple[object, ...]:
    """Return the payloads of an InferResult, with one handle for each output."""
    if not isinstance(result, InferResult):
        return ()
    return tuple(f"output-{output.request_id}" for output in result.outputs)


def serving(
    scheduler: Scheduler,
    files: dict[str, File],
    *,
    workers: int = 1,
    gpus: int = 1,
    pages: int = 4,
    config: ControllerConfig | None = None,
) -> Cluster:
    """Return a cluster in SERVING before the first request.

    Its workers have all files, and all models are measured.
    """
    named = tuple(LoadSpec(path) for path in files)
    cluster = Cluster(scheduler, config or quick_config(workers=workers, models=named))
    for i in range(workers):
        cluster.connect(FakeWorker(f"w{i}", files, gpus=gpus, pages=pages))
    while cluster.stage is not Stage.SERVING:
        assert not cluster.gave_up()
        cluster.run_until(cluster.now + seconds(1))
    return cluster
