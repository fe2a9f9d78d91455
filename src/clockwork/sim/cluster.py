"""Simulates a whole cluster in virtual time, with the production controller and workers, links and faults.

The cluster only delivers messages and advances the time. Each part behaves like its live host
(`clockwork.host.controller`, `clockwork.host.worker`). As on live hosts, pings on a link measure the offset of the
worker's clock, and the controller's side converts the worker's times.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.events import (
    ClientRequest,
    CompareShadow,
    ControllerCommand,
    DropWorker,
    Event,
    GiveUp,
    Report,
    Respond,
    ShadowCompared,
    WorkerConnected,
    WorkerLost,
    WorkerResult,
)
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer
from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import InferRequest, ServerStatus, StatusRequest, StatusResponse
from clockwork.messages.results import InferResult
from clockwork.paced.durations import DurationModel, NoiseModel
from clockwork.paced.models import PacedModel, measured, scaled
from clockwork.paced.worker import VERSION
from clockwork.scheduling.base import Scheduler
from clockwork.sim.controller import Costs, TimedController
from clockwork.sim.devices_spec import WorkerSpec
from clockwork.sim.files import ModelFiles
from clockwork.sim.links import Link, LinkModel
from clockwork.sim.loop import Loop
from clockwork.sim.watcher import Watcher
from clockwork.sim.worker import SimWorker
from clockwork.units import MIB, SECOND, Bytes, Nanos
from clockwork.wire.clock_offset import ClockOffset, shift_action, shift_result
from clockwork.worker.events import ActionReceived, ControllerLost

PING_EVERY: Final[Nanos] = SECOND // 2
"""Time between two pings, as on a live link."""

MAX_STARTUP: Final[Nanos] = 600 * SECOND
"""Limit of the duration of start-up. A longer start-up counts as failed."""

UNLIMITED: Final = ControllerConfig(
    max_pending=1_000_000, max_pending_bytes=1 << 60, max_client_pending=1_000_000, max_client_bytes=1 << 60
)
"""A configuration whose limits are so high that no scenario reaches them."""


class SimulationError(Exception):
    """Raised if the cluster cannot be simulated, because start-up failed."""


class _Worker:
    """A worker in the cluster, with its process, its links, and the controller's estimate of its clock offset."""

    def __init__(self, name: str, spec: WorkerSpec) -> None:
        self.name = name
        self.spec = spec
        self.process: SimWorker | None = None
        self.down: Link
        self.up: Link
        self.offset = ClockOffset()
        self.connected = False


class Cluster:
    """Workers, links and a controller on one loop."""

    def __init__(
        self,
        loop: Loop,
        rng: Random,
        scheduler: Scheduler,
        models: list[tuple[PacedModel, int]],
        *,
        fleet: Sequence[WorkerSpec],
        watcher: Watcher,
        on_response: Callable[[Respond], None],
        page_size: Bytes = 16 * MIB,
        link: LinkModel | None = None,
        noise: NoiseModel | None = None,
        skews: dict[int, tuple[Nanos, float]] | None = None,
        config: ControllerConfig | None = None,
        costs: Costs | None = None,
    ) -> None:
        """``models`` contains pairs of a model file and its number of copies.

        ``fleet`` has an entry for each kind of devices. Workers that are added later are of the first kind.

        ``skews`` contains the clock offset and the clock drift by worker number.

        ``costs`` are the times that the controller's work takes. None means that the work takes no time.
        """
        self.loop = loop
        self.watcher = watcher
        self._rng = rng
        self._page_size = page_size
        self._fleet = fleet
        self._link_model = link or LinkModel()
        self._noise = noise or NoiseModel()
        self._skews = skews or {}
        self._files = ModelFiles({model.path: model for model, _ in models})
        self._on_response = on_response
        specs = tuple(LoadSpec(model.path, "", copies) for model, copies in models)
        config = config or UNLIMITED
        self._known = {model.path: measured(model.profile, self._noise, rng) for model, _ in models}
        self._profiles: dict[ProfileKey, ModelProfile] = {}
        for model, _ in models:
            self._remember(model, self._known[model.path])
        config = replace(config, workers=sum(kind.workers for kind in fleet), models=specs)
        self.controller = ControllerWithStartupPhase(scheduler, config, self._profiles)
        moved = partial(watcher.moved, self.controller)
        self._timed = TimedController(loop, self.controller, self._execute, moved, costs or Costs())
        specs_of_workers = [kind for kind in fleet for _ in range(kind.workers)]
        self.workers = [_Worker(f"w{number}", spec) for number, spec in enumerate(specs_of_workers)]
        self._by_name = {worker.name: worker for worker in self.workers}
        self.status: ServerStatus | None = None
        self._busy_of_dead: Nanos = 0

    # --- start-up ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect all workers, and run the start-up to its end.

        Raises:
            SimulationError: start-up does not end.
        """
        for number in range(len(self.workers)):
            self.connect(number)
        while self.controller.stage is not Stage.SERVING and self.loop.now < MAX_STARTUP:
            moment = self.loop.next_event()
            if moment is None:
                break
            self.loop.run(moment)
        if self.controller.stage is not Stage.SERVING:
            raise SimulationError(f"start-up did not end; it stopped in stage {self.controller.stage.value}")

    def connect(self, number: int) -> None:
        """Start a worker process and connect it to the controller."""
        worker = self.workers[number]
        offset, drift = self._skews.get(number, (0, 0.0))
        spec = worker.spec
        rngs = [Random(self._rng.getrandbits(64)) for _ in range(spec.per_worker + 2)]
        durations = [DurationModel(self._noise, rng, spec.factor) for rng in rngs[2:]]
        worker.up = Link(self.loop, self._link_model, rngs[0], self._receive)
        worker.process = process = SimWorker(
            self.loop,
            worker.name,
            spec.kind,
            spec.pages,
            self._page_size,
            self._files.of(worker.name),
            durations,
            lambda result, worker=worker: worker.up.send((worker, result)),  # type: ignore[misc]
            self.watcher.started,
            offset,
            drift,
        )
        worker.down = Link(self.loop, self._link_model, rngs[1], process.receive)
        worker.offset = ClockOffset()
        worker.connected = True
        if offset or drift:
            self._ping(worker)
        self.feed(WorkerConnected(worker.name))

    @property
    def elastic(self) -> WorkerSpec:
        """The kind of devices that an autoscaler adds and removes, which is the first kind."""
        return self._fleet[0]

    def connected(self) -> list[int]:
        """Return the numbers of the connected workers of the kind `elastic`."""
        return [
            number for number, worker in enumerate(self.workers) if worker.connected and worker.spec is self.elastic
        ]

    def connected_devices(self) -> int:
        """Return the number of devices of the connected workers."""
        return sum(worker.spec.per_worker for worker in self.workers if worker.connected)

    def add_worker(self) -> None:
        """Add a worker of the kind `elastic` to the cluster, and connect it."""
        worker = _Worker(f"w{len(self.workers)}", self.elastic)
        self.workers.append(worker)
        self._by_name[worker.name] = worker
        self.connect(len(self.workers) - 1)

    def disconnect(self, number: int, why: str, dies: bool = True) -> None:
        """End the worker process or, if ``dies`` is false, only its connection."""
        worker = self.workers[number]
        if not worker.connected or worker.process is None:
            return
        worker.connected = False
        worker.up.cut()
        worker.down.cut()
        if dies:
            worker.process.alive = False
            self._busy_of_dead += worker.process.worker.busy_by(worker.process.clock())
        else:
            worker.process.feed(ControllerLost())
        self.feed(WorkerLost(worker.name, why))

    def add_file(self, model: PacedModel, broken: frozenset[str], rng: Random | None) -> None:
        """Add a model file that workers can load. The workers in ``broken`` cannot read the file.

        If ``rng`` is given, the controller already knows the model's times.
        """
        self._files.add(model, broken)
        if rng is not None:
            profile = measured(model.profile, self._noise, rng)
            first = tuple(round(profile.infer[1].median * factor) for factor in model.first)
            self._remember(model, replace(profile, first=first))

    def _remember(self, model: PacedModel, profile: ModelProfile) -> None:
        """Let the controller know a model's times on each kind of devices."""
        for kind in self._fleet:
            known = profile if kind.factor == 1.0 else scaled(profile, kind.factor)
            self._profiles[ProfileKey(model.digest, VERSION, kind.kind)] = known

    def can_read(self, worker: str, path: str) -> bool:
        """Return whether a worker can read a model file."""
        return path in self._files.of(worker)

    # --- events ------------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Pass an event to the controller."""
        self._timed.feed(event)

    def request(self, client_id: int, request: InferRequest) -> None:
        """Deliver a client's request to the controller."""
        self.feed(ClientRequest(client_id, request, arrival=self.loop.now))

    def _receive(self, message: Any) -> None:
        worker, sent = message
        if isinstance(sent, tuple):
            ping_sent, seen = sent
            worker.offset.add(ping_sent=ping_sent, received=seen, pong_sent=seen, now=self.loop.now)
        else:
            result = shift_result(sent, -self._offset(worker))
            self.watcher.ended(self.loop.now, worker.name, result)
            payloads = (None,) * len(result.outputs) if isinstance(result, InferResult) else ()
            self.feed(WorkerResult(worker.name, result, payloads))

    def _execute(self, command: ControllerCommand) -> None:
        if isinstance(command, Respond):
            if isinstance(command.response, StatusResponse):
                self.status = command.response.server
            else:
                self._on_response(command)
        elif isinstance(command, SendAction):
            worker = self._by_name[command.worker_id]
            if worker.connected:
                self._notify_watcher(command)
                action = shift_action(command.action, self._offset(worker))
                payloads = command.payloads
                if isinstance(action, Infer) and not payloads:
                    payloads = (None,) * len(action.inputs)  # in PROFILING, inputs are generated and have no payloads
                worker.down.send(ActionReceived(action, payloads))
        elif isinstance(command, DropWorker):
            self.watcher.violation(f"worker {command.worker_id} was dropped: {command.reason}")
            number = self.workers.index(self._by_name[command.worker_id])
            self.loop.at(self.loop.now, lambda _: self.disconnect(number, command.reason))
        elif isinstance(command, Report):
            self.watcher.reported(command.level, command.text, command.event)
        elif isinstance(command, CompareShadow):
            self.loop.at(self.loop.now, lambda _: self.feed(ShadowCompared(command.check_id)))
        elif isinstance(command, GiveUp):
            raise SimulationError(command.reason)

    def _notify_watcher(self, send: SendAction) -> None:
        predicted = None
        if self.watcher.recording:
            predicted = self.controller.predicted_start(send.worker_id, send.action.id)
        self.watcher.sent(self.loop.now, send, predicted)

    # --- clocks ------------------------------------------------------------------------------------------------------

    def _ping(self, worker: Any) -> None:
        """Measure the worker's clock halfway through a round trip, as a Ping and a Pong do on a live link."""
        process = worker.process
        if process is None or not worker.connected:
            return
        sent, delay = self.loop.now, self._link_model.delay

        def at_worker(_: Any) -> None:
            if worker.process is process and worker.connected:
                worker.up.send((worker, (sent, process.clock())))

        self.loop.at(sent + delay, at_worker)
        self.loop.at(sent + PING_EVERY, self._ping, worker)

    def _offset(self, worker: _Worker) -> Nanos:
        offset = worker.offset.offset_ns
        return offset if offset and abs(offset) > worker.offset.error_ns(self.loop.now) else 0

    def busy(self) -> Nanos:
        """Return the time that all devices together have spent on executing so far."""
        living = [worker.process for worker in self.workers if worker.process is not None and worker.process.alive]
        return self._busy_of_dead + sum(process.worker.busy_by(process.clock()) for process in living)

    @property
    def controller_busy(self) -> Nanos:
        """Return the time that the controller has spent on its work. The time is 0 if the scenario sets no costs."""
        return self._timed.busy

    def infer_time(self, path: str) -> Nanos:
        """Return the time of one row of a model from its profile (p99).

        An ``slo_factor`` is a multiple of this time.
        """
        return self._known[path].infer_estimate(1)

    # --- status  -----------------------------------------------------------------------------------------------------

    def ask_status(self) -> ServerStatus:
        """Return what ``clockwork status`` would show now."""
        self._timed.handle(ClientRequest(0, StatusRequest(0)))
        assert self.status is not None
        return self.status
