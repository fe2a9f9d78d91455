"""Implements the scheduler of Clockwork (Gujarati et al., OSDI 2020, section 5), with a promise at arrival.

Theory of operation. Every device has a `Plan`. A new request is added to a plan if, according to measured times and
margins, its deadline and all earlier promises will be met. If no plan allows this, the request is refused. So an
admitted request is late only if an unexpected event delays the plan.

A request is planned at once if it can join a batch with room, or if a device is idle. Otherwise, the request waits at
most ``verdict_delay`` for more requests of its group. Then the scheduler decides about the whole group, so that a burst
is planned as batches. The largest group is planned first.

Refused clients of one group get the same retry time. Different groups get different retry times. So the requests of a
group return together and can be a batch. ARCHITECTURE.md lists the differences from the original.
"""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.explanation import WhatIf
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import ErrorResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork.batching_delay import BatchingDelay
from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.counterfactual import Keeper, KeptDecision, what_if_undisturbed
from clockwork.scheduling.clockwork.demand import Demand
from clockwork.scheduling.clockwork.device import Device
from clockwork.scheduling.clockwork.open_batches import GroupKey
from clockwork.scheduling.clockwork.placing import Placing
from clockwork.scheduling.clockwork.plan import Plan, PlannedBatch
from clockwork.scheduling.clockwork.refusals import ADMITTED, Refusals
from clockwork.scheduling.clockwork.server_load import ServerLoad
from clockwork.scheduling.clockwork.timeline import FAR
from clockwork.scheduling.clockwork.weights import Weights
from clockwork.scheduling.shapes import shape_key
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, PlannedWork, WorkerState
from clockwork.units import Nanos

MAX_ATTEMPTS: Final = 2
"""Limit of the number of times that a request is sent to a device if the actions fail."""

NOT_STARTED: Final = (Status.COULD_NOT_START_IN_TIME, Status.SHUTTING_DOWN)
"""Statuses of results whose action was not started: its window has passed, or its worker is about to end."""

MAX_LATE_ATTEMPTS: Final = 8
"""Limit of the number of times that a request is sent to a device if the actions are not started.

Such an attempt is not a failure. Usually, the request's deadline passes before this many attempts.
"""

BACKGROUND_RESERVE: Final = 1.5
"""Time for which a background request occupies its device in the plan, as a multiple of its estimate.

So a background request that takes longer than its estimate rarely makes a client's request late.
"""


@mypyc_attr(allow_interpreted_subclasses=True)
class ClockworkScheduler(Scheduler):
    """Plans every device, and admits or refuses each request when it arrives; see the module's docstring."""

    name: ClassVar[str] = "clockwork"

    def __init__(self, config: ClockworkConfig | None = None) -> None:
        """Create a scheduler without devices. ``config`` contains its constants."""
        self._config = config or ClockworkConfig()
        self._plans: dict[GPUState, Plan] = {}
        self._demand = Demand(self._config.demand_window)
        self._missed = Demand(self._config.demand_window)  #: refused requests of models that are on a device
        self._weights = Weights(self._config, self._demand)
        self._server = ServerLoad()
        self._delay = BatchingDelay(self._server)
        self._placing = Placing(self._weights, self._demand, self._delay)
        self._refusals = Refusals(self._config)
        self._keeper = Keeper(self._config, self._weights)
        self._groups: dict[GroupKey, list[PendingRequest]] = {}  #: requests that wait for a decision
        self._verdict_at: Nanos = FAR
        self._failures: dict[int, int] = {}  #: request id -> number of failed attempts
        self._late_starts: dict[int, int] = {}  #: request id -> number of attempts that did not start in time

        #: heap of (time, number of the plan, plan); entries may be outdated
        self._wakes: list[tuple[Nanos, int, Plan]] = []
        self._last_number = 0

    # --- Scheduler ---------------------------------------------------------------------------------------------------

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Begin to use all devices, and fill their memory with weights."""
        super().start(now, state)
        self._add(now, state.gpus())
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Plan the request at once if possible.

        Otherwise, decide about its whole group after the verdict delay.
        """
        model = request.model
        if not request.background:
            self._demand.add(now, model.name)
        self._server.note(*self.state.load)
        group = (model.name, shape_key(request))
        if group not in self._groups:
            plan = self._placing.place_at_once(now, group, request)
            if plan is not None:
                return self._send_due(now, plan)
        self._groups.setdefault(group, []).append(request)
        self._verdict_at = min(self._verdict_at, now + self._config.verdict_delay)
        return []

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Update the device's plan with the actual end of the action."""
        plan = self._plans[gpu]
        answers: list[Answer] = []
        if isinstance(action, Infer):
            answers += self._infer_ended(now, plan, action, result)
        elif isinstance(action, LoadWeights):
            answers += self._load_ended(now, plan, action, result)
        if self._groups and not plan.batches:
            answers += self._decide(now)
        answers += self._send_due(now, plan)
        self._weights.preload(now, plan)
        return answers

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Remove the request from the plan."""
        self._failures.pop(request.id, None)
        self._late_starts.pop(request.id, None)
        plan = self._placing.cancel(request)
        return [] if plan is None else self._send_due(now, plan)

    def explain(self, now: Nanos, request: PendingRequest) -> str:
        """Return which action delays the device for which the request is planned."""
        plan = self._placing.plan_of(request)
        return "" if plan is None else plan.device.reason_for_delay(now)

    def counterfactuals(self, request: PendingRequest) -> tuple[WhatIf, ...]:
        """Ask the plans of the decision that refused the request, or use the device's present estimate."""
        verdict = request.verdict
        if verdict is None:
            return ()
        if isinstance(verdict.kept, KeptDecision) and (found := verdict.kept.what_if(request)):
            return found
        for plan in self._plans.values():
            if plan.gpu.label == verdict.device and plan.gpu.kind in request.model.profiles:
                time = plan.device.infer_time(verdict.at, request.model, request.batch_size, shape_key(request))
                return what_if_undisturbed(request, verdict, time)
        return ()

    def planned(self, now: Nanos, until: Nanos, limit: int) -> tuple[PlannedWork, ...]:
        """Return the first batches of each plan."""
        return tuple(work for plan in self._plans.values() for work in plan.upcoming(now, until, limit))

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """Plan the affected requests again. If no device has the weights any more, load the weights first."""
        requests = [request for gpu in gpus for request in self._placing.drop_model(self._plans[gpu], model)]
        answers = self._place_again(now, requests, f"an operator evicted {model}", late=True)
        return answers + [answer for gpu in gpus for answer in self._send_due(now, self._plans[gpu])]

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Estimate the model's times from its new profiles, and load its weights into free memory."""
        for plan in self._plans.values():
            plan.device.forget_times(model)
            plan.device.note_profile(model)
        self._weights.add_model(now, model)
        return []

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Forget what is known about the model."""
        shared = any(other.info.digest == model.info.digest for other in self.state.models.values())
        self._weights.remove_model(model.name)
        self._refusals.forget(model.name)
        self._keeper.forget(model)
        for plan in self._plans.values():
            plan.device.forget_model(model.name)
            if not shared:
                plan.device.forget_times(model)
        self._demand.forget(model.name)
        self._missed.forget(model.name)
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Begin to use the worker's devices."""
        self._add(now, worker.gpus)
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Plan again the requests that were planned for the worker or sent to it, if their deadlines allow this."""
        requests: list[PendingRequest] = []
        for gpu in worker.gpus:
            plan = self._plans.pop(gpu)
            plan.wake_at = FAR
            self._weights.remove(plan)
            for sent in plan.device.sent.values():
                requests += sent.requests
            requests += self._placing.drop_all(plan)
        return self._place_again(now, requests, f"worker {worker.id} was lost")

    def wake(self, now: Nanos) -> list[Answer]:
        """Decide about the groups that wait, and send the batches that are due."""
        answers: list[Answer] = []
        if self._verdict_at <= now:
            answers += self._decide(now)
        while self._wakes and self._wakes[0][0] <= now:
            moment, _, plan = heappop(self._wakes)
            if plan.wake_at == moment:
                answers += self._send_due(now, plan)
        return answers

    def next_wakeup(self) -> Nanos | None:
        """Return the next time at which a group must be decided or a batch must be sent."""
        wakes = self._wakes
        while wakes and wakes[0][2].wake_at != wakes[0][0]:
            heappop(wakes)
        moment = min(self._verdict_at, wakes[0][0]) if wakes else self._verdict_at
        return moment if moment < FAR else None

    # --- verdicts ----------------------------------------------------------------------------------------------------

    def _decide(self, now: Nanos) -> list[Answer]:
        """Plan the waiting groups, with the largest first. Refuse the requests that cannot be planned."""
        groups, self._groups, self._verdict_at = self._groups, {}, FAR
        answers: list[Answer] = []
        changed: dict[Plan, None] = {}
        for group, requests in sorted(groups.items(), key=lambda item: -len(item[1])):
            left = [request for request in requests if not request.over]
            plans, refused = self._placing.place(now, group, left)
            answers += self._refuse(now, group, refused, left)
            changed.update(dict.fromkeys(plans))
        for plan in changed:
            answers += self._send_due(now, plan)
        return answers

    def _refuse(
        self,
        now: Nanos,
        group: GroupKey,
        requests: list[PendingRequest],
        decided: Sequence[PendingRequest],
        reason: str = "",
    ) -> list[Answer]:
        """Refuse requests. ``decided`` also contains the other requests of the decision.

        If some requests were admitted before, ``reason`` explains why their promises are broken.
        """
        if not requests:
            return []
        model = requests[0].model
        plans = holders = self._weights.some_holders(model.name)
        if not holders:
            plans = [plan for plan in self._weights.some(self._weights.plans) if plan.gpu.can_serve(model)]
            self._weights.load_for_later(now, plans, model, self._demand.rate(now, model.name) / 2)
        kept = None
        if self.state.recording:
            kept = self._keeper.keep(now, plans, group[1], requests, decided, self._demand.rate(now, model.name))
        if holders:
            self._load_on_another(now, group, requests)
        for plan in plans:
            plan.claim_room(now)
            plan.device.note_refusal(now, model.name)
        for request in requests:
            request.reason = request.reason or reason
        return self._refusals.answers(now, plans, group[1], requests, kept)

    def _load_on_another(self, now: Nanos, group: GroupKey, requests: list[PendingRequest]) -> None:
        """Load a model on a further device if this device would have served refused requests.

        Such requests had no time to wait for a load, so `Placing` loaded nothing.
        """
        model = requests[0].model
        self._missed.add(now, model.name, len(requests))
        if not self._weights.is_loading(model.name):
            plans = self._placing.would_serve(now, group, requests[-1])
            self._weights.load_for_later(now, plans, model, self._missed.rate(now, model.name))

    def _place_again(
        self, now: Nanos, requests: Iterable[PendingRequest], reason: str, *, late: bool = False
    ) -> list[Answer]:
        """Plan again requests that were planned or sent before. Answer the requests that have no attempt left.

        ``late`` means that the action of these requests was not started. Such an attempt does not count as a failure.
        """
        answers: list[Answer] = []
        counts, limit = (self._late_starts, MAX_LATE_ATTEMPTS) if late else (self._failures, MAX_ATTEMPTS)
        groups: dict[GroupKey, list[PendingRequest]] = {}
        for request in requests:
            self._placing.forget(request)
            if request.over:
                continue
            attempts = counts[request.id] = counts.get(request.id, 0) + 1
            if attempts >= limit:
                request.reason = request.reason or reason
                status, text = Status.ERROR, f"the request failed {attempts} times: {reason}"
                if late:
                    status, text = Status.CONTROLLER_COULD_NOT_START_IN_TIME, f"{ADMITTED}: {reason}"
                answers.append(Answer(request.id, status, text, reason=RefusalReason.PROMISE_BROKEN))
            else:
                groups.setdefault((request.model.name, shape_key(request)), []).append(request)
        for group, members in groups.items():
            plans, refused = self._placing.place(now, group, members)
            answers += self._refuse(now, group, refused, members, reason)
            for plan in plans:
                answers += self._send_due(now, plan)
        if len(counts) > 2 * len(self._placing) + 1000:
            counts.clear()
        return answers

    # --- devices -----------------------------------------------------------------------------------------------------

    def _add(self, now: Nanos, gpus: Iterable[GPUState]) -> None:
        plans: list[Plan] = []
        slow = [model for model in self.state.models.values() if any(each.first for each in model.profiles.values())]
        for gpu in gpus:
            self._last_number += 1
            device = Device(gpu, self._config, self.state.workers[gpu.worker_id].round_trip // 2)
            plan = self._plans[gpu] = Plan(device, self._config, self._last_number, self._server)
            plan.records = self.state.recording
            plans.append(plan)
            for model in slow:
                device.note_profile(model)
        self._weights.add(now, plans, self.state.models)

    def _send_due(self, now: Nanos, plan: Plan) -> list[Answer]:
        """Send the batches of a device that are due, and record when the next batch is due."""
        answers: list[Answer] = []
        while (batch := plan.next_batch(now)) is not None:
            self._delay.end(now, batch)
            part = plan.split(now, batch)
            if part is None:
                self._placing.close(batch)
            else:
                self._placing.close_part(part, batch)
            answers += self._send(now, plan, part or batch)
        if plan.wake_at < FAR:
            heappush(self._wakes, (plan.wake_at, plan.number, plan))
        return answers

    def _send(self, now: Nanos, plan: Plan, batch: PlannedBatch) -> list[Answer]:
        """Send a batch, except for requests that can no longer be in time because a promise was broken."""
        model, device, answers = batch.model, plan.device, list[Answer]()
        start = max(device.first_start(now), device.ready.get(model.name, 0))
        while True:
            expected = device.infer_time(now, model, batch.rows, batch.key)
            answer_at = start + expected + device.return_delay
            late = [request for request in batch.requests if request.deadline < answer_at]
            if not late:
                break
            for request in late:
                request.reason = request.reason or device.problem or "the device is behind its plan"
                text = f"{ADMITTED}: {request.reason}"
                status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
                self._placing.forget(request)
                predicted = answer_at - request.arrival
                answers.append(
                    Answer(request.id, status, text, predicted=predicted, reason=RefusalReason.PROMISE_BROKEN)
                )
                if plan.remove(batch, request):
                    return answers
        latest = min(request.deadline for request in batch.requests) - expected - device.return_delay
        earliest = device.earliest_for(now, start)
        infer = plan.gpu.infer(model, batch.requests, earliest, max(earliest, latest), expected, max(start, earliest))
        if batch.requests[0].background:
            expected = round(expected * BACKGROUND_RESERVE)
        plan.note_sent(now, infer.id, batch, expected, earliest)
        return answers

    def _infer_ended(self, now: Nanos, plan: Plan, action: Infer, result: Result) -> list[Answer]:
        if isinstance(result, InferResult):
            begin = result.exec.begin
            ended = plan.device.note_ended(now, action.id, begin, begin + result.exec.duration)
            for request in ended.requests if ended is not None else ():
                self._placing.forget(request)
            return []
        assert isinstance(result, ErrorResult)
        sent = plan.device.note_failed(now, action.id, result.message)
        if sent is None:
            return []
        requests = [request for request in sent.requests if not request.over]
        if result.status == Status.INVALID_INPUT:
            for request in requests:
                self._placing.forget(request)
            return [Answer(request.id, Status.INVALID_REQUEST, result.message) for request in requests]
        if result.status == Status.SHUTTING_DOWN:  # the worker would refuse the planned batches too
            requests += self._placing.drop_all(plan)
        late = result.status in NOT_STARTED
        return self._place_again(now, requests, f"{plan.gpu}: {result.message}", late=late)

    def _load_ended(self, now: Nanos, plan: Plan, action: LoadWeights, result: Result) -> list[Answer]:
        name = action.model
        plan.end_load(name)
        model = self.state.models.get(name)
        if model is None:
            return []  # the model was removed while its weights were being loaded
        if isinstance(result, LoadWeightsResult):
            plan.device.note_loaded(now, action, model, result.timing)
            return []
        assert isinstance(result, ErrorResult)
        requests = self._placing.drop_model(plan, name)
        late = result.status in NOT_STARTED
        return self._place_again(now, requests, f"{plan.gpu}: {result.message}", late=late)
