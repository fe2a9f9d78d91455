"""Implements the stage SERVING: passes requests to the scheduler, sends its actions to workers, and answers clients.

Every pending request is answered exactly once: by the scheduler, after a successful Infer, or at its deadline. If the
client cancels a request or disconnects, the request gets no answer. Only workers that are ready get actions.
"""

from collections.abc import Callable, Iterable
from typing import Concatenate, Final, ParamSpec

from clockwork.controller.action_results import checked_result, count_loss, record_result, request_timing, why_late
from clockwork.controller.admission import Admission
from clockwork.controller.catalog import Catalog
from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import (
    ControllerCommand,
    DropWorker,
    Report,
    RequestsShed,
    Respond,
    ServerLoad,
)
from clockwork.controller.evicting import evict_everywhere
from clockwork.controller.expired import IMPOSSIBLE, expired_at_arrival, impossible_slo
from clockwork.controller.explaining import Explaining
from clockwork.controller.guard import ask, expectations, explain, next_wakeup, request_ids
from clockwork.controller.own_requests import OwnRequests
from clockwork.controller.pending import NO_CLIENT, Pending
from clockwork.controller.promises import FAULTS_OF_CLIENTS, Promise
from clockwork.controller.quota import input_bytes
from clockwork.controller.recording import Recorder
from clockwork.controller.refusing import Refusing
from clockwork.controller.responses import retry_time
from clockwork.controller.tally import Tally
from clockwork.controller.throttling import Throttle
from clockwork.controller.timeline import TimelineReader
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import EvictWeights, Infer, InferInput
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import EvictRequest, EvictResponse, InferRequest, InferResponse, RequestTiming
from clockwork.messages.results import ErrorResult, InferResult, Result
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, WorkerState
from clockwork.state.gpu import QueuedAction
from clockwork.units import Nanos, show_duration

P = ParamSpec("P")

MAX_EXPIRED: Final = 500
"""Limit of the expired requests that one call of `wake` answers. Further requests are answered in the next call."""


class Serving:
    """The pending requests, and the scheduler that decides about them."""

    def __init__(
        self,
        state: ClockworkState,
        scheduler: Scheduler,
        config: ControllerConfig,
        profiles: dict[ProfileKey, ModelProfile] | None = None,
    ) -> None:
        """Start without requests. `start` begins the stage."""
        self._state = state
        self._scheduler = scheduler
        self._config = config
        self.catalog = Catalog(config.labels, config.promoted)
        self.admission = Admission(config)
        self._pending = Pending(config)
        self._last_id = 0
        self._wakeup: Nanos | None = None  #: result of the scheduler's `next_wakeup` after its last call
        self.tally = Tally(state)
        self.throttle = Throttle()
        known = {} if profiles is None else profiles
        self.own = OwnRequests(state, self.tally, config, known, self._pending, self.catalog, self.admission)
        state.recording = config.explain_requests > 0
        self.recorder = Recorder(config.explain_requests, config.explain_failures)
        self.refusing = Refusing(self.catalog, self.tally, self.admission, self._pending, self.recorder)

    def explaining(self) -> Explaining:
        """Return the object that explains recent requests."""
        return Explaining(self.recorder, self.admission, self._pending, self._state, self._scheduler)

    def timeline(self) -> TimelineReader:
        """Return the object that answers the requests for the timeline."""
        return TimelineReader(self.recorder, self._state, self._scheduler)

    @property
    def pending(self) -> int:
        """Number of clients' requests that wait for their responses."""
        return len(self._pending) - len(self.own)

    def start(self, now: Nanos) -> list[ControllerCommand]:
        """Begin the stage. Serve the models that were measured, and start the scheduler."""
        for model in self._state.models.values():
            self.catalog.load(model.served_as, model.version)
            self.catalog.serve(model.version, model)
        return self._ask(now, (), self._scheduler.start, self._state)

    # --- models ------------------------------------------------------------------------------------------------------

    def model_added(self, now: Nanos, model: ModelState) -> list[ControllerCommand]:
        """Inform the scheduler of a model that was added, or whose profiles have changed."""
        self.admission.forget(model.name)
        self.catalog.revision += 1
        return self._ask(now, (), self._scheduler.model_added, model)

    def needs(self, model: ModelState) -> bool:
        """Return whether a pending request is for this model."""
        return self.tally.of(model.name).pending > 0 or self.own.needs(model)

    def remove_model(self, now: Nanos, model: ModelState) -> list[ControllerCommand]:
        """Forget a model that has no pending requests."""
        del self._state.models[model.name]
        self.own.forget(model)
        self.tally.forget(model.name)
        self.throttle.forget(model.name)
        self.recorder.forget(model.name)
        self.admission.forget(model.name)
        return self._ask(now, (), self._scheduler.model_removed, model)

    # --- requests ----------------------------------------------------------------------------------------------------

    def infer(
        self,
        now: Nanos,
        client_id: int,
        message: InferRequest,
        payload: object,
        arrival: Nanos | None = None,
        shared: bool = False,
    ) -> list[ControllerCommand]:
        """Handle a client's request. The SLO counts from ``arrival``, or from ``now`` if the arrival is unknown.

        `ClientRequest` explains ``shared``.
        """
        arrival = now if arrival is None else min(arrival, now)
        try:
            request = self._admit(now, client_id, message, payload, arrival, shared)
        except InvalidRequestError as error:
            return [self.refusing.refuse(now, client_id, message, Status.INVALID_REQUEST, str(error))]
        if isinstance(request, Respond):
            return [request]
        withdrawn = self.own.make_way(now, request)
        commands = [] if withdrawn is None else self._withdraw(now, withdrawn)
        self._pending.add(request)
        self.tally.of(request.model.name).pending += 1
        return commands + self._ask(now, (request,), self._scheduler.infer, request)

    def _admit(
        self, now: Nanos, client_id: int, message: InferRequest, payload: object, arrival: Nanos, shared: bool
    ) -> PendingRequest | Respond:
        """Return the request if it is accepted, or its refusal. Raise InvalidRequestError if the request is wrong."""
        model = self.catalog.find(message.model, message.version)
        if model is None:
            return self.refusing.refuse(
                now, client_id, message, *self.catalog.why_missing(message.model, message.version)
            )
        if not model.profiles:
            text = f"model {model.served_as} has not been measured: no connected worker has it"
            return self.refusing.refuse(
                now, client_id, message, Status.SKIPPED_BY_CONTROLLER, text, RefusalReason.NO_DEVICE
            )
        batch_size = self.admission.batch_size(model, message)
        slo = self.admission.slo(model, message)
        self.tally.arrived(now, model, batch_size, slo)
        if message.id in self._pending.of_client(client_id):
            raise InvalidRequestError(f"request id {message.id} is used by another pending request of this client")
        if full := self._pending.quota.reason_to_refuse(client_id, input_bytes(message), shared=shared):
            self.tally.scaling.missed(model.name, batch_size)
            return self.refusing.refuse(now, client_id, message, Status.SKIPPED_BY_CONTROLLER, full.text, full.reason)
        deadline = arrival + slo
        if deadline < now:
            counts, fastest = self.tally.excluded(model.name, batch_size, slo), model.infer_estimate(batch_size)
            expired, why = expired_at_arrival(now, counts, client_id, message, now - arrival, slo, fastest)
            return self.refusing.recorded(now, message, expired, why)
        self._last_id += 1
        outputs = tuple(dict.fromkeys(message.outputs)) if len(message.outputs) > 1 else message.outputs
        share = InferInput(self._last_id, batch_size, message.inputs, outputs, message.generated)
        cold = model.name not in self._state.holders
        return PendingRequest(
            self._last_id,
            client_id,
            message.id,
            model,
            share,
            payload,
            arrival,
            deadline,
            cold,
            public_id=message.request_id,
            slo_source=self.admission.source(message, slo),
        )

    def note(self, now: Nanos, event: RequestsShed | ServerLoad) -> list[ControllerCommand]:
        """Record a load of the server that the host has measured, or count requests that the host has refused."""
        if isinstance(event, ServerLoad):
            self._state.load = (event.busy, now)
            return []
        for (name, version), count in event.by_model.items():
            self.tally.shed(now, self.catalog.find(name, version), count)
        for shed in event.sampled:
            self.recorder.shed(shed)
        return []

    def result(
        self, now: Nanos, worker: WorkerState, result: Result, payloads: tuple[object, ...]
    ) -> list[ControllerCommand]:
        """Handle the result of one of the scheduler's actions."""
        gpu = worker.routes[result.id]
        action = gpu.outstanding[result.id]
        result = checked_result(self._state, action, result)
        commands: list[ControllerCommand] = []
        about: list[PendingRequest] = []
        if not gpu.settle(action, result):
            text = f"the worker contradicts the controller about weights on {gpu}: {result}"
            commands.append(DropWorker(worker.id, text))
        occupied = record_result(self._state, gpu, action, result)
        self.recorder.ended(now, action, result)
        if (model := self._state.models.get(action.model)) is not None and not self.own.is_alone(action):
            self.tally.acted(now, gpu, model, action, result, occupied)
        if isinstance(action, Infer) and isinstance(result, InferResult):
            commands += self._deliver(now, gpu, action, result, payloads)
        elif isinstance(action, Infer):
            about = self._pending_of(action.inputs)
        return commands + self._ask(now, about, self._scheduler.result, gpu, action, result)

    def _pending_of(self, inputs: Iterable[InferInput]) -> list[PendingRequest]:
        """Return the action's requests that are still pending."""
        found = [self._pending.get(share.request_id) for share in inputs]
        return [request for request in found if request is not None]

    def _deliver(
        self, now: Nanos, gpu: GPUState, action: Infer, result: InferResult, payloads: tuple[object, ...]
    ) -> list[ControllerCommand]:
        """Answer the requests of an Infer that succeeded."""
        commands: list[ControllerCommand] = []
        samples = self.own.checks.places(action) if len(action.inputs) > 1 else ()
        for place, (output, payload) in enumerate(zip(result.outputs, payloads, strict=True)):
            request = self._pending.get(output.request_id)
            if request is None:
                continue  # the request was cancelled, or its deadline has passed
            if request.client_id == NO_CLIENT:
                self._forget(request)
                commands += self.own.executed(now, gpu, request, action, result, place, payload)
                continue
            timing = request_timing(now, gpu, request, action, result)
            if output.refusal or output.failed:
                status = Status.ERROR if output.failed else Status.INVALID_REQUEST
                commands += self._respond(request, status, output.refusal, (), timing)
            elif now > request.deadline:
                request.reason = request.reason or why_late(now, action, result)
                commands += self._expire(now, request, timing, executed=True)
            else:
                self.tally.of(request.model.name).delivered(now, timing, result)
                if place in samples:
                    self.own.checks.keep(request, action, place, result, payload)
                if self.own.shadows.running:
                    commands += self.own.shadows.keep(request, result, place, payload)
                commands += self._respond(request, Status.SUCCESS, "", output.tensors, timing, payload)
        return commands

    def cancel(self, now: Nanos, client_id: int, client_request_id: int) -> list[ControllerCommand]:
        """Cancel a client's request if it is pending."""
        request = self._pending.of_client(client_id).get(client_request_id)
        return [] if request is None else self._cancel(now, request)

    def client_lost(self, now: Nanos, client_id: int) -> list[ControllerCommand]:
        """Cancel all requests of a client that has disconnected."""
        requests = list(self._pending.of_client(client_id).values())
        return [command for request in requests for command in self._cancel(now, request)]

    def _cancel(self, now: Nanos, request: PendingRequest) -> list[ControllerCommand]:
        self._forget(request)
        self.tally.of(request.model.name).answered(now, Status.CANCELLED, now - request.arrival)
        self.recorder.cancelled(now, request)
        return self._ask(now, (), self._scheduler.cancel, request)

    def shut_down(self, now: Nanos, text: str) -> list[ControllerCommand]:
        """Answer all pending requests with SHUTTING_DOWN."""
        commands: list[ControllerCommand] = []
        for request in list(self._pending):
            if request.over:
                continue  # the scheduler answered this request during an earlier `cancel`
            commands += self._respond(request, Status.SHUTTING_DOWN, text, (), RequestTiming(now - request.arrival))
            commands += self._ask(now, (), self._scheduler.cancel, request)
        return commands

    def begin_own(self, now: Nanos) -> list[ControllerCommand]:
        """Begin one of the controller's own requests, if one may begin now."""
        request = self.own.next(now, self._last_id + 1)
        if request is None:
            return []
        self._last_id += 1
        self._pending.add(request)
        return self._ask(now, (request,), self._scheduler.infer, request)

    def _withdraw(self, now: Nanos, own: PendingRequest) -> list[ControllerCommand]:
        """Cancel one of the controller's own requests that is postponed, because a client's request has arrived."""
        self._forget(own)
        return self._ask(now, (), self._scheduler.cancel, own)

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[ControllerCommand]:
        """Begin to use a worker that is ready."""
        self._state.workers[worker.id] = worker
        return self._ask(now, (), self._scheduler.worker_joined, worker)

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[ControllerCommand]:
        """Handle the loss of a worker that was ready, with its outstanding actions."""
        self._state.depart(worker.id)
        self.recorder.lost(worker)
        actions = [action for gpu in worker.gpus for action in gpu.outstanding.values()]
        inputs = [share for action in actions if isinstance(action, Infer) for share in action.inputs]
        about = self._pending_of(inputs)
        commands = self._give_up_after_losses(now, worker, about)
        about = [request for request in about if not request.over]
        return commands + self._ask(now, about, self._scheduler.worker_lost, worker)

    def _give_up_after_losses(
        self, now: Nanos, worker: WorkerState, held: list[PendingRequest]
    ) -> list[ControllerCommand]:
        """Answer the requests that may have caused the loss of a worker."""
        commands: list[ControllerCommand] = []
        for request in held:
            if text := self.own.shadows.lost(request, worker.id) or count_loss(request, worker.id):
                timing = RequestTiming(now - request.arrival, cold_start=request.cold_start)
                commands.extend(self._respond(request, Status.ERROR, text, (), timing))
        return commands

    def evict(self, now: Nanos, client_id: int, message: EvictRequest) -> list[ControllerCommand]:
        """Evict a model's weights from all devices where no outstanding action needs them, and inform the scheduler."""
        model = self.catalog.find(message.model, message.version)
        if model is None:
            status, text = self.catalog.why_missing(message.model, message.version)
            return [Respond(client_id, EvictResponse(message.id, status, text))]
        evicted, status, text = evict_everywhere(self._state, model)
        commands = self._send_queued(now)
        commands.append(Respond(client_id, EvictResponse(message.id, status, text, len(evicted))))
        return commands + (self._ask(now, (), self._scheduler.evicted, model.name, evicted) if evicted else [])

    def wake(self, now: Nanos) -> list[ControllerCommand]:
        """Answer the requests whose deadline has passed. If the scheduler's wake-up is due, wake the scheduler."""
        commands: list[ControllerCommand] = []
        for _ in range(MAX_EXPIRED):
            request = self._pending.expired(now)
            if request is None:
                break
            if request.promised is not None and not request.reason:
                request.reason, reports = explain(self._scheduler, now, request)
                commands += reports
            commands += self._expire(now, request, RequestTiming(now - request.arrival))
            commands += self._ask(now, (), self._scheduler.cancel, request)
        if self._wakeup is not None and self._wakeup <= now:
            commands += self._ask(now, (), self._scheduler.wake)
        return commands

    def next_wakeup(self) -> Nanos | None:
        """Return the time just after the first deadline, or the scheduler's next wake-up time if that is earlier."""
        deadline = self._pending.next_deadline()
        if deadline is None:
            return self._wakeup
        return deadline + 1 if self._wakeup is None else min(deadline + 1, self._wakeup)

    def _ask(
        self,
        now: Nanos,
        about: Iterable[PendingRequest],
        method: Callable[Concatenate[Nanos, P], list[Answer]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[ControllerCommand]:
        """Call a method of the scheduler, send its answers to clients, and send the actions that it has made.

        Actions are sent even if the method raised an exception, because the states of devices already include them.
        """
        commands: list[ControllerCommand] = []
        for answer in ask(about, method, now, *args, **kwargs):
            if isinstance(answer, Report):
                commands.append(answer)
            else:
                commands += self._answer(now, answer)
        commands += self._send_queued(now)
        self._wakeup, reports = next_wakeup(self._scheduler)
        return commands + reports

    def _send_queued(self, now: Nanos) -> list[ControllerCommand]:
        """Send the actions that the states of devices have queued, in the order in which they were made."""
        return [self._send(now, queued) for queued in self._state.actions.take()]

    def _send(self, now: Nanos, queued: QueuedAction) -> SendAction | Report:
        """Send an action with the payloads of its requests. If the action must not be sent, return a report instead."""
        action, gpu = queued.action, queued.gpu
        if gpu.worker_id not in self._state.workers:
            gpu.settle(action, ErrorResult(action.id, "", Status.CANCELLED, "it was not sent"))
            return Report("ERROR", f"the scheduler made an action for {gpu}, which is not in service: {action}")
        if isinstance(action, EvictWeights):
            self.recorder.sent(now, gpu, action)
            return queued.command()
        payloads: tuple[object, ...] = ()
        requests: list[PendingRequest] = []
        if isinstance(action, Infer):
            found = [self._pending.get(request_id) for request_id in request_ids(action)]
            requests = [request for request in found if request is not None]
            payloads = tuple([request.payload for request in requests])
            if len(payloads) < len(action.inputs):
                gpu.settle(action, ErrorResult(action.id, "Infer", Status.CANCELLED, "it was not sent"))
                return Report("ERROR", f"the scheduler made an Infer for a request that is over: {action}")
        gpu.predict(action, *expectations(now, action, queued.start))
        self.recorder.sent(now, gpu, action, requests)
        return queued.command(payloads)

    def _answer(self, now: Nanos, answer: Answer) -> list[ControllerCommand]:
        request = self._pending.get(answer.request_id)
        if request is None:
            return [Report("ERROR", f"the scheduler answered request {answer.request_id}, which is over: {answer}")]
        timing = RequestTiming(now - request.arrival, cold_start=request.cold_start)
        if now > request.deadline and answer.status not in FAULTS_OF_CLIENTS:
            return self._expire(now, request, timing)
        return self._respond(
            request,
            answer.status,
            answer.message,
            answer.outputs,
            timing,
            answer.payload,
            answer.predicted,
            answer.retry_after,
            answer.reason or RefusalReason.OTHER,
        )

    def _expire(
        self, now: Nanos, request: PendingRequest, timing: RequestTiming, *, executed: bool = False
    ) -> list[ControllerCommand]:
        """Answer a pending request at its deadline, with a refusal if no device could have met the request's SLO."""
        own = request.client_id == NO_CLIENT
        if not (executed or own) and (fastest := impossible_slo(request, self._state.outstanding())):
            text, status = IMPOSSIBLE.format(time=show_duration(fastest)), Status.CONTROLLER_COULD_NOT_START_IN_TIME
            predicted, reason = timing.total + fastest, RefusalReason.DEVICE_TOO_SLOW
            return self._respond(request, status, text, (), timing, predicted=predicted, reason=reason)
        if not own:
            self.tally.of(request.model.name).late_ns += now - request.deadline
        text = "the deadline passed before the response was ready"
        if request.reason:
            text += f": {request.reason}"
        return self._respond(request, Status.TIMEOUT, text, (), timing)

    def _respond(
        self,
        request: PendingRequest,
        status: Status,
        message: str,
        outputs: tuple[TensorSpec, ...],
        timing: RequestTiming,
        payload: object = None,
        predicted: Nanos | None = None,
        retry_after: Nanos | None = None,
        reason: RefusalReason = RefusalReason.OTHER,
    ) -> list[ControllerCommand]:
        """Answer a pending request of a client or of the controller itself. All answers go through this method."""
        self._forget(request)
        if request.client_id == NO_CLIENT:
            return self.own.answered(request.arrival + timing.total, request, status, message)
        now = request.arrival + timing.total
        promise = self.tally.finished(request, status, timing.total, reason)
        self.own.client_answered(now, request, status, reason)
        self.throttle.verdict(request, status, timing, retry_after)
        if request.promised is not None and predicted is None:
            predicted = request.promised - request.arrival
        response = InferResponse(
            request.client_request_id,
            int(status),
            message,
            outputs,
            timing,
            predicted,
            retry_time(status, retry_after),
            promise is not Promise.NONE,
            request.model.version,
            request.public_id,
        )
        self.recorder.answered(now, request, response, reason, broken=promise is Promise.BROKEN)
        return [Respond(request.client_id, response, payload, request, reason)]

    def _forget(self, request: PendingRequest) -> None:
        self._pending.remove(request)
        if request.client_id != NO_CLIENT:
            self.tally.of(request.model.name).pending -= 1

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self._pending.check_invariants()
        self.own.check_invariants()
        assert not self._state.actions
        waiting = [request for request in self._pending if request.client_id != NO_CLIENT]
        assert len(waiting) == self.pending
        models = {request.model.name for request in waiting}
        assert sum(self.tally.of(name).pending for name in sorted(models)) == len(waiting)
