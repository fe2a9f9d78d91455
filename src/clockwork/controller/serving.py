"""The fourth stage: requests to the scheduler, its actions to workers, answers to clients.

Invariants: every pending request is answered exactly once, by the scheduler, by the Infer that succeeded, or at its
deadline by this room; unless its client cancelled it or went away. No action leaves for a worker that is not ready.
"""

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Concatenate, Final, ParamSpec

from clockwork.controller.admission import Admission
from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ControllerCommand, DropWorker, Report, Respond
from clockwork.controller.guard import ask, expectations, explain, is_sound, next_wakeup
from clockwork.controller.plausible import plausible
from clockwork.controller.tally import Tally
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import EvictWeights, Infer, InferInput, LoadWeights
from clockwork.messages.commands import Answer, Command, SendAction
from clockwork.messages.requests import EvictRequest, EvictResponse, InferRequest, InferResponse, RequestTiming
from clockwork.messages.results import ErrorResult, InferResult, LoadWeightsResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, PendingRequest, Residency, WorkerState
from clockwork.units import Bytes, Nanos, as_ms

P = ParamSpec("P")

_MADE_BY_DEVICES: Final = (LoadWeights, EvictWeights, Infer)


class Serving:
    """Pending requests and the scheduler; see the module."""

    def __init__(self, state: ClockworkState, scheduler: Scheduler, config: ControllerConfig) -> None:
        """Nothing is pending; `start` begins."""
        self._state = state
        self._scheduler = scheduler
        self._config = config
        self._admission = Admission(config)
        self._pending: dict[int, PendingRequest] = {}
        self._by_client: dict[int, dict[int, PendingRequest]] = {}  #: client -> its request id -> request
        self._bytes: Bytes = 0  #: payloads of those pending
        self._deadlines: list[tuple[Nanos, int]] = []  #: a heap; entries of requests that are over are skipped
        self._last_id = 0
        self._wakeup: Nanos | None = None  #: what the scheduler asked for after its last call
        self.broken: dict[str, str] = {}
        self.tally = Tally()

    @property
    def pending(self) -> int:
        """Requests that wait for their answer."""
        return len(self._pending)

    def start(self, now: Nanos) -> list[ControllerCommand]:
        """Hand over to the scheduler."""
        return self._ask(now, (), self._scheduler.start, self._state)

    def infer(self, now: Nanos, client_id: int, message: InferRequest, payload: object) -> list[ControllerCommand]:
        """A client's request; its SLO counts from ``now``."""
        try:
            request = self._admit(now, client_id, message, payload)
        except InvalidRequestError as error:
            return [self.refuse(client_id, message, Status.INVALID_REQUEST, str(error))]
        if isinstance(request, Respond):
            return [request]
        self._pending[request.id] = request
        self._by_client.setdefault(client_id, {})[message.id] = request
        self._bytes += _payload_bytes(request)
        self.tally.of(message.model).pending += 1
        heappush(self._deadlines, (request.deadline, request.id))
        return self._ask(now, (request,), self._scheduler.infer, request)

    def _admit(self, now: Nanos, client_id: int, message: InferRequest, payload: object) -> PendingRequest | Respond:
        """Raises InvalidRequestError; a Respond refuses for other reasons."""
        model = self._state.models.get(message.model)
        if model is None:
            return self.refuse(client_id, message, *self._why_unknown(message.model))
        if not model.profiles:
            text = f"model {model.name} has not been measured: no worker that holds it is connected"
            return self.refuse(client_id, message, Status.SKIPPED_BY_CONTROLLER, text)
        batch_size = self._admission.batch_size(model, message)
        slo = self._admission.slo(model, message)
        if message.id in self._by_client.get(client_id, ()):
            raise InvalidRequestError(f"request id {message.id} is in use by another request of this client")
        if len(self._pending) >= self._config.max_pending or self._bytes >= self._config.max_pending_bytes:
            text = f"the server is full: {len(self._pending)} requests, {self._bytes} bytes are pending"
            return self.refuse(client_id, message, Status.SKIPPED_BY_CONTROLLER, text)
        self._last_id += 1
        share = InferInput(self._last_id, batch_size, message.inputs, message.outputs, message.generated)
        cold = model.name not in self._state.holders
        return PendingRequest(self._last_id, client_id, message.id, model, share, payload, now, now + slo, cold)

    def refuse_early(self, client_id: int, message: InferRequest) -> InferResponse | None:
        """The refusal of a request for an unknown model, or with other inputs than the model's; it is counted."""
        model = self._state.models.get(message.model)
        refused = None
        if model is None:
            refused = self.refuse(client_id, message, *self._why_unknown(message.model))
        else:
            try:
                self._admission.batch_size(model, message)
            except InvalidRequestError as error:
                refused = self.refuse(client_id, message, Status.INVALID_REQUEST, str(error))
        if refused is None:
            return None
        assert isinstance(refused.response, InferResponse)
        return refused.response

    def refuse(self, client_id: int, message: InferRequest, status: Status, text: str) -> Respond:
        """Answer a request that is not even taken in, and count it."""
        if message.model in self._state.models:
            self.tally.of(message.model).answered(status, 0)
        else:
            self.tally.stranger(status)
        return Respond(client_id, InferResponse(message.id, int(status), text, (), RequestTiming(0)))

    def _why_unknown(self, name: str) -> tuple[Status, str]:
        if name in self.broken:
            return Status.ERROR, f"model {name} is not served: {self.broken[name]}"
        some = sorted(self._state.models)[:10]
        more = ", ..." if len(self._state.models) > len(some) else ""
        return Status.UNKNOWN_MODEL, f"no model {name!r}; served are: {', '.join(some) or 'none'}{more}"

    def result(
        self, now: Nanos, worker: WorkerState, result: Result, payloads: tuple[object, ...]
    ) -> list[ControllerCommand]:
        """A worker has answered one of the scheduler's actions."""
        gpu = worker.routes[result.id]
        action = gpu.outstanding[result.id]
        result = plausible(action, result)
        commands: list[ControllerCommand] = []
        about: list[PendingRequest] = []
        if not gpu.settle(action, result):
            text = f"it disagrees about the weights on {gpu}: {result}"
            commands.append(DropWorker(worker.id, text))
        _remember(self._state, gpu, action, result)
        if action.model in self._state.models:
            self.tally.of(action.model).acted(action, result)
        if isinstance(action, Infer):
            if isinstance(result, InferResult):
                commands += self._deliver(now, gpu, action, result, payloads)
            else:
                about = [r for i in action.inputs if (r := self._pending.get(i.request_id)) is not None]
        return commands + self._ask(now, about, self._scheduler.result, gpu, action, result)

    def _deliver(
        self, now: Nanos, gpu: GPUState, action: Infer, result: InferResult, payloads: tuple[object, ...]
    ) -> list[ControllerCommand]:
        """Answer the requests of an Infer that succeeded."""
        commands: list[ControllerCommand] = []
        batch_size = action.batch_size
        loaded = gpu.loads.get(action.model)
        for output, payload in zip(result.outputs, payloads, strict=True):
            request = self._pending.get(output.request_id)
            if request is None:
                continue  # cancelled, or its deadline has passed
            timing = RequestTiming(
                now - request.arrival,
                max(0, result.exec.begin - request.arrival),
                result.exec.duration,
                batch_size,
                request.cold_start,
                0 if loaded is None else _overlap(loaded, request.arrival, result.exec.begin),
            )
            if output.refusal:
                commands.append(self._respond(request, Status.INVALID_REQUEST, output.refusal, (), timing))
            elif now > request.deadline:
                request.excuse = request.excuse or _lateness(now, action, result)
                commands.append(self._expire(now, request, timing))
            else:
                self.tally.of(request.model.name).delivered(now, timing, result)
                commands.append(self._respond(request, Status.SUCCESS, "", output.tensors, timing, payload))
        return commands

    def cancel(self, now: Nanos, client_id: int, client_request_id: int) -> list[ControllerCommand]:
        """A client no longer wants an answer."""
        request = self._by_client.get(client_id, {}).get(client_request_id)
        return [] if request is None else self._cancel(now, request)

    def client_lost(self, now: Nanos, client_id: int) -> list[ControllerCommand]:
        """A client no longer wants any answer."""
        requests = list(self._by_client.get(client_id, {}).values())
        return [command for request in requests for command in self._cancel(now, request)]

    def _cancel(self, now: Nanos, request: PendingRequest) -> list[ControllerCommand]:
        self._forget(request)
        self.tally.of(request.model.name).answered(Status.CANCELLED, now - request.arrival)
        return self._ask(now, (), self._scheduler.cancel, request)

    def shut_down(self, now: Nanos, text: str) -> list[ControllerCommand]:
        """Tell everybody who waits that the server shuts down."""
        commands: list[ControllerCommand] = []
        for request in list(self._pending.values()):
            if request.over:
                continue  # the scheduler has answered it meanwhile
            timing = RequestTiming(now - request.arrival)
            commands.append(self._respond(request, Status.SHUTTING_DOWN, text, (), timing))
            commands += self._ask(now, (), self._scheduler.cancel, request)
        return commands

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[ControllerCommand]:
        """A worker is ready to serve."""
        self._state.workers[worker.id] = worker
        return self._ask(now, (), self._scheduler.worker_joined, worker)

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[ControllerCommand]:
        """A worker that was ready is gone, with its outstanding actions."""
        self._state.depart(worker.id)
        actions = [action for gpu in worker.gpus for action in gpu.outstanding.values()]
        inputs = [share for action in actions if isinstance(action, Infer) for share in action.inputs]
        about = [request for i in inputs if (request := self._pending.get(i.request_id)) is not None]
        return self._ask(now, about, self._scheduler.worker_lost, worker)

    def evict(self, client_id: int, message: EvictRequest) -> list[ControllerCommand]:
        """Evict a model's weights wherever no action outstanding needs them."""
        if message.model not in self._state.models:
            status, text = self._why_unknown(message.model)
            return [Respond(client_id, EvictResponse(message.id, status, text))]
        commands: list[ControllerCommand] = []
        busy: list[str] = []
        for gpu in self._state.gpus():
            if gpu.in_use(message.model):
                busy.append(str(gpu))
            elif gpu.residency(message.model) is Residency.WARM:
                commands.append(gpu.evict_weights(message.model))
        status, text = Status.SUCCESS, ""
        if busy:
            status, text = Status.WEIGHTS_IN_USE, f"{message.model} is in use on {', '.join(busy)}: try again"
        return [*commands, Respond(client_id, EvictResponse(message.id, status, text, len(commands)))]

    def wake(self, now: Nanos) -> list[ControllerCommand]:
        """Answer those whose deadline has passed; wake the scheduler if it asked for it."""
        commands: list[ControllerCommand] = []
        while self._deadlines and self._deadlines[0][0] < now:
            request = self._pending.get(heappop(self._deadlines)[1])
            if request is not None:
                if request.promised is not None and not request.excuse:
                    request.excuse, reports = explain(self._scheduler, now, request)
                    commands += reports
                commands.append(self._expire(now, request, RequestTiming(now - request.arrival)))
                commands += self._ask(now, (), self._scheduler.cancel, request)
        if self._wakeup is not None and self._wakeup <= now:
            commands += self._ask(now, (), self._scheduler.wake)
        return commands

    def next_wakeup(self) -> Nanos | None:
        """The first deadline (just past it: an answer at the deadline is in time), or what the scheduler asks for."""
        self._tidy_deadlines()
        if not self._deadlines:
            return self._wakeup
        deadline = self._deadlines[0][0] + 1
        return deadline if self._wakeup is None else min(deadline, self._wakeup)

    def _tidy_deadlines(self) -> None:
        """Keep the heap in proportion: requests with far deadlines must not pile up when they are long over."""
        while self._deadlines and self._deadlines[0][1] not in self._pending:
            heappop(self._deadlines)
        if len(self._deadlines) > 2 * len(self._pending) + 1000:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._pending]
            heapify(self._deadlines)

    def _ask(
        self,
        now: Nanos,
        about: Iterable[PendingRequest],
        method: Callable[Concatenate[Nanos, P], list[Command]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[ControllerCommand]:
        """Let the scheduler decide, and carry out what it says.

        The picture of a device changed when an action was made. So each action is sent once, in the call that made it
        and in the order of their making: also if the scheduler raised before it could return it.
        """
        ids = self._state.action_ids
        before = ids.last
        said = ask(about, method, now, *args, **kwargs)
        returned: dict[int, SendAction] = {}
        commands: list[ControllerCommand] = []
        for command in said:
            if isinstance(command, SendAction) and self._is_made(command):
                action_id = command.action.id
                if action_id > before and action_id not in returned:
                    returned[action_id] = command
                    continue
            elif isinstance(command, Answer) and is_sound(command):
                commands.append(self._answer(now, command))
                continue
            elif isinstance(command, Report):
                commands.append(command)
                continue
            text = "an action that is not new, not for a device that is there, or no command at all"
            commands.append(Report("ERROR", f"the scheduler said {command!r}: {text}"))
        for action_id in range(before + 1, ids.last + 1):
            send = returned.get(action_id)
            if send is None:
                commands += self._left_behind(now, action_id)
            else:
                commands.append(self._with_payloads(now, send))
        self._wakeup, reports = next_wakeup(self._scheduler)
        commands += reports
        return commands

    def _is_made(self, send: SendAction) -> bool:
        """Whether the action was made by a device of that worker, and is outstanding there."""
        worker = self._state.workers.get(send.worker_id)
        return worker is not None and isinstance(send.action, _MADE_BY_DEVICES) and send.action.id in worker.routes

    def _left_behind(self, now: Nanos, action_id: int) -> list[ControllerCommand]:
        """Send an action that was made and not returned."""
        gpu = next((w.routes[action_id] for w in self._state.workers.values() if action_id in w.routes), None)
        if gpu is None:
            return []
        action = gpu.outstanding[action_id]
        report = Report("ERROR", f"the scheduler made {action} and did not return it; it is sent all the same")
        return [report, self._with_payloads(now, SendAction(gpu.worker_id, action))]

    def _with_payloads(self, now: Nanos, command: SendAction) -> SendAction | Report:
        """The action with its requests' payloads, as it leaves; a report instead if it carries what is over."""
        action = command.action
        gpu = self._state.workers[command.worker_id].routes[action.id]
        if not isinstance(action, Infer):
            if isinstance(action, LoadWeights):
                gpu.predict(action, *expectations(now, action, command.start))
            return command
        try:
            payloads = tuple([self._pending[share.request_id].payload for share in action.inputs])
        except KeyError:
            error = ErrorResult(action.id, "Infer", Status.CANCELLED, "it was not sent")
            gpu.settle(action, error)
            return Report("ERROR", f"the scheduler made an Infer for a request that is over: {action}")
        gpu.predict(action, *expectations(now, action, command.start))
        return SendAction(command.worker_id, action, payloads, command.start)

    def _answer(self, now: Nanos, answer: Answer) -> Respond | Report:
        request = self._pending.get(answer.request_id)
        if request is None:
            return Report("ERROR", f"the scheduler answered request {answer.request_id}, which is over: {answer}")
        timing = RequestTiming(now - request.arrival, cold_start=request.cold_start)
        if now > request.deadline:
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
        )

    def _expire(self, now: Nanos, request: PendingRequest, timing: RequestTiming) -> Respond:
        self.tally.of(request.model.name).late_ns += now - request.deadline
        text = "the deadline passed before the answer was there"
        if request.excuse:
            text += f": {request.excuse}"
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
    ) -> Respond:
        """Answer a pending request; the only place that does."""
        self._forget(request)
        counts = self.tally.of(request.model.name)
        counts.answered(status, timing.total)
        counts.cold_starts += request.cold_start
        if request.promised is not None:
            if status == Status.SUCCESS:
                counts.kept_promises += 1
            else:
                counts.broken_promises += 1
            if predicted is None:
                predicted = request.promised - request.arrival
        response = InferResponse(
            request.client_request_id,
            int(status),
            message,
            outputs,
            timing,
            predicted,
            retry_after,
            request.promised is not None,
        )
        return Respond(request.client_id, response, payload)

    def _forget(self, request: PendingRequest) -> None:
        request.over = True
        del self._pending[request.id]
        self._bytes -= _payload_bytes(request)
        self.tally.of(request.model.name).pending -= 1
        requests = self._by_client[request.client_id]
        del requests[request.client_request_id]
        if not requests:
            del self._by_client[request.client_id]

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and checkers."""
        assert self._bytes == sum(map(_payload_bytes, self._pending.values()))
        assert not any(request.over for request in self._pending.values())
        assert sum(map(len, self._by_client.values())) == len(self._pending)
        assert {i for _, i in self._deadlines} >= set(self._pending)
        models = {request.model.name for request in self._pending.values()}
        assert sum(self.tally.of(name).pending for name in sorted(models)) == len(self._pending)


def _remember(state: ClockworkState, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result) -> None:
    """Keep what an action took, for those who ask how fast the models are in service, and how well that is known."""
    model = state.models.get(action.model)
    gpu.compare(action, result, model)
    gpu.work.count(result)
    if model is None:
        return  # held by a worker, but not served
    if isinstance(action, Infer) and isinstance(result, InferResult):
        model.took(gpu.kind, action.batch_size, gpu.occupied(action.earliest, result.exec))
    elif isinstance(action, LoadWeights) and isinstance(result, LoadWeightsResult):
        model.took(gpu.kind, 0, result.timing.duration)
        gpu.loads[action.model] = result.timing


def _overlap(timing: Timing, begin: Nanos, end: Nanos) -> Nanos:
    """How much of it lies between two moments."""
    return max(0, min(timing.end, end) - max(timing.begin, begin))


def _lateness(now: Nanos, action: Infer, result: InferResult) -> str:
    """What an Infer did whose answers came too late."""
    timing = result.exec
    return (
        f"Infer {action.id} began {as_ms(timing.begin - action.earliest):.3f} ms after it was sent, took "
        f"{as_ms(timing.duration):.3f} ms (estimated were {as_ms(action.expected_duration):.3f}), and its result "
        f"{as_ms(now - timing.end):.3f} ms to come"
    )


def _payload_bytes(request: PendingRequest) -> Bytes:
    if request.input.generated:
        return 0
    return sum(tensor.nbytes for tensor in request.input.tensors)
