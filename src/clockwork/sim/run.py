"""Runs one simulation of a scenario with a seed, and collects the outcomes."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from clockwork.controller.config import ControllerConfig, ControlMode
from clockwork.controller.events import Respond
from clockwork.controller.shadow_specs import parse_shadows
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferRequest, InferResponse, ServerStatus
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec, spec
from clockwork.paced.models import PacedModel
from clockwork.scheduling.base import Scheduler, changes_models
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.registry import make_scheduler
from clockwork.sim.autoscaler import Autoscaler
from clockwork.sim.change_spec import timed_changes
from clockwork.sim.changes import OPERATOR, Changes
from clockwork.sim.cluster import UNLIMITED, Cluster
from clockwork.sim.devices_spec import WorkerSpec
from clockwork.sim.faults import arrange, explains, skews
from clockwork.sim.leftovers import leftovers
from clockwork.sim.loop import Loop
from clockwork.sim.scenario import ControllerSpec, Scenario
from clockwork.sim.watcher import Watcher
from clockwork.units import MILLISECOND, SECOND, Nanos, ms, seconds
from clockwork.workload.outcomes import Outcome, Outcomes, outcome_of, outcome_record
from clockwork.workload.request import WorkloadRequest, comes_back
from clockwork.workload.spec import make_workload

SETTLE: Final[Nanos] = 2 * SECOND
"""Time between the end of start-up and the start of the workload.

During this time, the scheduler loads as many weights as fit.
"""

DRAIN: Final[Nanos] = 60 * SECOND
"""Limit of the time after the workload's end. All requests must be answered within this time."""

DRAIN_OF_CHANGES: Final[Nanos] = 600 * SECOND
"""Limit of the time after the workload's end in scenarios with changes. The limit is longer than `DRAIN`, because
changes of one model wait for each other.
"""

CLIENT: Final = 1

Record = Callable[[dict[str, Any]], None]


class Simulation:
    """A simulated cluster with clients. `run` may be called once."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        models: list[tuple[PacedModel, int]] | None = None,
        scheduler: Scheduler | None = None,
        traces: Mapping[str, Sequence[str]] | None = None,
        check_every: int = 0,
        record: Record | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """``models`` and ``scheduler`` replace the models and the scheduler of the scenario.

        The models must have the same names.

        ``traces`` contains the lines of each trace that the scenario names.

        ``check_every`` is the number of events between checks of the machines' invariants, or 0 for no checks.
        ``record`` gets a record of each request and action. ``progress`` regularly gets the share of the run that has
        passed.
        """
        self.scenario = scenario
        self.loop = Loop()
        expected = frozenset({"model_failed"} if scenario.changes else ())
        self.watcher = Watcher(every=check_every, record=record, expected=expected)
        self._record = record
        self._progress = progress
        rng = Random(seed)
        self._duration = seconds(scenario.duration_s)
        models = models or scenario.sim_models()
        self.workload = make_workload(
            scenario.workload, scenario.model_names(), self._duration, workload_rng(seed), traces or {}
        )
        devices = scenario.devices
        settle = max(SETTLE, _time_to_fill(models, devices.kinds))
        self.cluster = Cluster(
            self.loop,
            Random(rng.getrandbits(64)),
            _checked(scheduler or scheduler_of(scenario), scenario),
            models,
            fleet=devices.kinds,
            watcher=self.watcher,
            on_response=self._answered,
            link=scenario.network.link(),
            noise=scenario.noise,
            skews=skews(scenario.faults),
            costs=scenario.controller.costs(),
            config=_config(scenario),
        )
        self._originals = {model.path.removesuffix(".onnx"): model for model, _ in models}
        timed = timed_changes(scenario.changes, scenario.model_names() if scenario.changes else (), self._duration)
        self.changes = Changes(self.cluster, timed, self._original, self._explained, Random(f"changes {seed}"))
        self.autoscaler = Autoscaler(self.cluster, scenario.autoscaler, record)
        self._settle = settle
        self.outcomes = Outcomes(warmup=seconds(scenario.warmup_s), duration=self._duration, bucket=scenario.bucket())
        self._inputs = {path_stem: _inputs(model) for model, _ in models if (path_stem := model.path[:-5])}
        self._input_of: dict[tuple[str, int], tuple[TensorSpec, ...]] = {}
        self._slo = ms(scenario.slo_ms)
        self._client_delay = ms(scenario.network.client_delay_ms)
        self._noisy = scenario.noise.kind != "none" or scenario.network.jitter_ms > 0 or scenario.network.loss > 0
        self._noisy |= scenario.controller != ControllerSpec()
        self._waiting: dict[int, tuple[WorkloadRequest, Nanos]] = {}
        self.histories: list[object] = []  #: objects that are allowed to contain the names of unloaded models
        self._last_id = 0
        self._start: Nanos = 0
        self._armed: Nanos | None = None
        self._busy_steps: list[Nanos] = []  #: busy time of all devices together at each hundredth of the run
        self._device_steps: list[int] = []  #: number of devices at each hundredth of the run

    def run(self) -> "Simulation":
        """Run the simulation from start-up to the last response. Return this object.

        Raises:
            SimulationError: start-up failed.
        """
        self.start()
        self.play()
        self.finish()
        return self

    def start(self) -> None:
        """Run start-up, then wait while the scheduler loads the weights that fit.

        Raises:
            SimulationError: start-up failed.
        """
        self.cluster.start()
        self.loop.run(self.loop.now + self._settle)
        self._start = self.loop.now
        self._busy_steps = [self.cluster.busy()]
        self._device_steps = [self._devices()]
        arrange(self.cluster, self.scenario.faults, self._start)
        self.changes.arrange(self._start)
        self.autoscaler.begin(self._duration)
        self._arm()

    def play(self) -> None:
        """Run the scenario's workload."""
        for step in range(1, 101):
            self.loop.run(self._start + self._duration * step // 100)
            self._busy_steps.append(self.cluster.busy())
            self._device_steps.append(self._devices())
            if self._progress is not None:
                self._progress(step / 100)

    def finish(self) -> None:
        """Run until all requests and changes have ended and no message is in flight. Then check the final state."""
        end = self.loop.now + (DRAIN_OF_CHANGES if self.scenario.changes else DRAIN)
        while (self._waiting or self._changing()) and self.loop.now < end:
            self.loop.run(self.loop.now + 10 * MILLISECOND)
        self.loop.run(self.loop.now + SETTLE)
        end = self.loop.now + DRAIN
        # The controller's own requests may begin at any time, also when it is asked for its status.
        status = self.cluster.ask_status()
        while _is_executing(status) and self.loop.now < end:
            self.loop.run(self.loop.now + 10 * MILLISECOND)
            status = self.cluster.ask_status()
        self._check(status)

    def _changing(self) -> bool:
        """Return whether a change has not ended, or a worker returns in a scenario with changes."""
        controller = self.cluster.controller
        joining = bool(self.scenario.changes) and controller.joining
        return bool(self.changes.pending) or controller.changing or joining

    # --- clients -----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        due = self.workload.next_send()
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self.loop.at(self._start + due, self._send_due, due)

    def _send_due(self, armed: Any) -> None:
        if armed != self._armed:
            return
        self._armed = None
        now = self.loop.now - self._start
        while (due := self.workload.next_send()) is not None and due <= now:
            request = self.workload.take()
            if self._client_delay:
                self.loop.at(self.loop.now + self._client_delay, self._arrive, request)
            else:
                self._arrive(request)
        self._arm()

    def _arrive(self, request: Any) -> None:
        self._last_id += 1
        request_id = self._last_id
        self._waiting[request_id] = (request, self.loop.now)
        slo = request.slo if request.slo is not None or request.slo_factor is not None else self._slo
        key = (request.model, request.batch_size)
        inputs = self._input_of.get(key)
        if inputs is None:
            inputs = self._input_of[key] = self._inputs_for(*key)
        infer = InferRequest(
            request_id, request.model, inputs, slo, request.slo_factor, (), True, request_id=str(request_id)
        )
        self.cluster.request(CLIENT, infer)

    def _inputs_for(self, model: str, rows: int) -> tuple[TensorSpec, ...]:
        tensors = self._inputs.get(model) or self._inputs[model.rpartition("-")[0]]
        return tuple(spec(tensor.name, tensor.datatype, (rows, *tensor.shape[1:])) for tensor in tensors)

    def _original(self, model: str) -> PacedModel:
        """Return the file from which a model is loaded at the start."""
        return self._originals.get(model) or self._originals[model.rpartition("-")[0]]

    def _answered(self, respond: Respond) -> None:
        response = respond.response
        if respond.client_id == OPERATOR:
            self.changes.answered(respond)
            return
        assert isinstance(response, InferResponse)
        waiting = self._waiting.pop(response.id, None)
        if waiting is None:
            self.watcher.violation(f"request {response.id} was answered twice, or never sent")
            return
        request, arrival = waiting
        now = self.loop.now
        slo = self._slo_of(request)
        outcome = outcome_of(
            response, intended=request.intended, answered=now + self._client_delay - self._start, slo=slo
        )
        self.outcomes.add(request.stream, outcome)
        self.changes.request_answered(arrival, outcome)
        self._check_response(response, request.model, slo, arrival)
        if self._record is not None:
            self._record(self._request_record(request, arrival, response, outcome))
        self.loop.at(now + self._client_delay, self._back, (request, comes_back(response.status, response.retry_after)))

    def _back(self, answered: Any) -> None:
        """Deliver a response to its client."""
        request, retry_after = answered
        self.workload.answered(self.loop.now - self._start, request, retry_after)
        self._arm()

    def _slo_of(self, request: WorkloadRequest) -> Nanos:
        if request.slo_factor is None:
            return request.slo if request.slo is not None else self._slo
        stem = request.model if request.model in self._inputs else request.model.rpartition("-")[0]
        base = self.cluster.infer_time(f"{stem}.onnx")
        by_factor = round(request.slo_factor * base)
        return by_factor if request.slo is None else min(by_factor, request.slo)

    # --- checking ----------------------------------------------------------------------------------------------------

    def _check_response(self, response: InferResponse, model: str, slo: Nanos, arrival: Nanos) -> None:
        if response.status == 0 and response.timing.total > slo:
            self.watcher.violation(f"request {response.id} succeeded {response.timing.total - slo} ns after its SLO")
        if response.admitted and response.status != 0 and not self._noisy and not self._explained(arrival):
            self.watcher.violation(
                f"request {response.id} was promised and missed, but no fault explains it: {response.message}"
            )

        if response.status == Status.UNKNOWN_MODEL and not self.changes.may_be_missing(model):
            self.watcher.violation(f"request {response.id} for {model} was refused by a change: {response.message}")

    def _explained(self, arrival: Nanos) -> bool:
        if self.autoscaler.explains(arrival):
            return True
        return explains(self.scenario.faults, arrival - self._start, self.loop.now - self._start)

    def _check(self, status: ServerStatus) -> None:
        """Check that no request is lost, and that the controller's view of the cluster matches the workers.

        ``status`` is the controller's status at this time.
        """
        for request_id in list(self._waiting)[:10]:
            self.watcher.violation(f"request {request_id} was never answered")
        self.changes.check_answered()
        if self.scenario.changes:
            self._check_unloaded()
        names = self.cluster.controller.models()
        truth = {
            worker.name: [
                (
                    sum(info.weights_pages for info in device_models),
                    tuple(sorted(names.get(info.name, info.name) for info in device_models)),
                )
                for gpu in worker.process.core.info().gpus
                for device_models in [[m for m in worker.process.core.info().models if m.name in set(gpu.models)]]
            ]
            for worker in self.cluster.workers
            if worker.process is not None and worker.connected
        }
        self.watcher.check_rest(truth, status)

    def _check_unloaded(self) -> None:
        """Check that nothing refers to unloaded models any more, and that workers have exactly the served models."""
        controller = self.cluster.controller
        served = set(controller.models())
        gone = frozenset(self.watcher.loaded.keys() - served - set(self.scenario.model_names()))
        for text in leftovers(controller, gone, self.histories)[:10]:
            self.watcher.violation(f"the controller still refers to an unloaded model: {text}")
        for worker in self.cluster.workers:
            if worker.process is not None and worker.connected:
                held = {model.name for model in worker.process.core.info().models}
                lacking = {
                    name for name in served - held if self.cluster.can_read(worker.name, self.watcher.loaded[name])
                }
                if lacking or held - served:
                    text = f"it lacks {sorted(lacking)} and has {sorted(held - served)} in excess"
                    self.watcher.violation(f"at rest, worker {worker.name} has the wrong models: {text}")

    # --- results -----------------------------------------------------------------------------------------------------

    def utilisation(self) -> float:
        """Return the share of the run in which devices executed, averaged over the devices."""
        steps = self.utilisation_series()
        return sum(steps) / len(steps)

    def utilisation_series(self) -> list[float]:
        """Return `utilisation` for each hundredth of the run."""
        each = self._duration / 100
        busy = zip(self._busy_steps[1:], self._busy_steps, strict=False)
        devices = zip(self._device_steps[1:], self._device_steps, strict=False)
        steps = zip(busy, devices, strict=True)
        return [round((after - before) / (each * sum(counts) / 2), 4) for (after, before), counts in steps]

    def _devices(self) -> int:
        """Return the number of devices.

        Without an autoscaler, the number includes the devices of workers that are temporarily lost.
        """
        if not self.scenario.autoscaler.max_workers:
            return self.scenario.devices.count
        return max(1, self.cluster.connected_devices())

    def _request_record(
        self, request: WorkloadRequest, arrival: Nanos, response: InferResponse, outcome: Outcome
    ) -> dict[str, Any]:
        return {
            "record": "request",
            "id": response.id,
            "stream": request.stream,
            "client": request.client,
            "model": request.model,
            "intended": self._start + request.intended,
            "arrival": arrival,
            **outcome_record(outcome, response),
        }


def workload_rng(seed: int) -> Random:
    """Return the random generator of the workload. A load test of a live server uses the same generator."""
    return Random(f"workload {seed}")


def scheduler_of(scenario: Scenario) -> Scheduler:
    """Create the scenario's scheduler.

    Raises:
        InvalidRequestError: no scheduler has that name.
    """
    if scenario.scheduler == ClockworkScheduler.name:
        return ClockworkScheduler(scenario.scheduler_config())
    return make_scheduler(scenario.scheduler)


def _is_executing(status: ServerStatus) -> bool:
    return any(gpu.outstanding for worker in status.workers for gpu in worker.gpus)


def _checked(scheduler: Scheduler, scenario: Scenario) -> Scheduler:
    """Check that a scheduler supports the changes of a scenario, and return the scheduler.

    Raises:
        InvalidRequestError: the scheduler does not support changes of models.
    """
    if scenario.changes and not changes_models(scheduler):
        raise InvalidRequestError(
            f"scheduler {type(scheduler).__name__} cannot be used with [[changes]]: it does not define model_added "
            "and model_removed"
        )
    return scheduler


def _config(scenario: Scenario) -> ControllerConfig:
    """Return the configuration of the controller."""
    control = ControlMode.EXPLICIT if scenario.changes else ControlMode.NONE
    return replace(UNLIMITED, control=control, shadows=parse_shadows(scenario.shadows))


def _inputs(model: PacedModel) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(info.name, info.datatype, tuple(1 if dim < 0 else dim for dim in info.shape), 0)
        for info in model.inputs
        if not info.optional
    )


def _time_to_fill(models: list[tuple[PacedModel, int]], kinds: Sequence[WorkerSpec]) -> Nanos:
    """Return an upper limit of the time that a device needs to load all models that fit."""
    load = max(max(model.profile.load_weights.samples) for model, _ in models)
    count = sum(copies for _, copies in models)
    return max(round(load * kind.factor) * min(count, kind.pages) * 11 // 10 for kind in kinds)
