"""The scheduler of Clockwork (Gujarati et al., OSDI 2020, section 5), with a promise at arrival.

Theory of operation. Every device has a `Plan`. A request that arrives is placed in one so that its own deadline and all
those promised before are met, by measured times and named margins; or it is refused. So a verdict is a fact about the
plan at that moment, and what was admitted is late only if something broke the plan.

A request is placed at once if it can join a batch with room, or start on an idle device. Otherwise it waits, at most
``verdict_delay``, for others like it, and the *group* is judged together: a burst is to be seen as the batch that it
is. Groups are judged largest first. Where several places would do, an idle device wins, then the place that uses the
device best, then the earliest.

A model that is nowhere is loaded where its weights would be there first; its batch is planned behind the load. A
refused client is told when the plan will have room for a batch like its: those of one group together, groups one after
the other, so that they come back as batches.

Differences to the original are in ARCHITECTURE.md.
"""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork.choosing import alike, better, fitting
from clockwork.scheduling.clockwork.company import Company
from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.demand import Demand
from clockwork.scheduling.clockwork.joining import GroupKey, Joinable
from clockwork.scheduling.clockwork.memory import can_load, load, ready_at, victims
from clockwork.scheduling.clockwork.plan import Batch, Offer, Plan
from clockwork.scheduling.clockwork.refusals import ADMITTED, Refusals
from clockwork.scheduling.clockwork.timeline import FAR
from clockwork.scheduling.shapes import shape_key
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, WorkerState
from clockwork.units import Nanos

ATTEMPTS: Final = 2
"""Times that a request is sent to a device: once more after a failure, if its deadline still allows."""

LATE_ATTEMPTS: Final = 8
"""Times that it is sent to a device that does not begin in time, which is no failure: its deadline ends that, as a
rule."""

MAX_TRIED: Final = 16
"""Requests of a group that are refused one after the other before the first that can be placed is searched for."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ClockworkScheduler(Scheduler):
    """See the module."""

    name: ClassVar[str] = "clockwork"

    def __init__(self, config: ClockworkConfig | None = None) -> None:
        """No device yet; `ClockworkConfig` has every constant."""
        self._config = config or ClockworkConfig()
        self._plans: dict[GPUState, Plan] = {}
        self._order: list[Plan] = []  #: all plans
        self._places: dict[str, list[Plan]] = {}  #: model -> plans of devices that have its weights, or will
        self._joinable = Joinable()
        self._batch_of: dict[int, Batch] = {}  #: request id -> its batch, while planned
        self._plan_of: dict[int, Plan] = {}  #: request id -> where it is planned, or was sent
        self._groups: dict[GroupKey, list[PendingRequest]] = {}  #: not judged yet
        self._judge_at: Nanos = FAR
        self._failures: dict[int, int] = {}  #: request id -> times that it failed
        self._delays: dict[int, int] = {}  #: request id -> times that it was not begun in time
        self._wakes: list[tuple[Nanos, int, Plan]] = []  #: heap of (moment, the plan's number, plan); may be stale
        self._last_number = 0
        self._turn = 0
        self._demand = Demand(self._config.demand_window)
        self._company = Company()
        self._refusals = Refusals(self._config)
        self._to_preload: list[str] = []

    # --- Scheduler ---------------------------------------------------------------------------------------------------

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Take all devices into service, and fill their memory."""
        super().start(now, state)
        self._add(now, state.gpus())
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Place the request at once if that is easy, else with others like it."""
        model = request.model
        self._demand.add(now, model.name)
        self._company.note_load(*self.state.load)
        key = shape_key(request)
        group = (model.name, key)
        if group not in self._groups:
            plan = self._place_at_once(now, group, request)
            if plan is not None:
                return self._pump(now, plan)
        self._groups.setdefault(group, []).append(request)
        self._judge_at = min(self._judge_at, now + self._config.verdict_delay)
        return []

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        """The plan of the device goes on from what has really happened."""
        plan = self._plans[gpu]
        answers: list[Answer] = []
        if isinstance(action, Infer):
            answers += self._infer_ended(now, plan, action, result)
        elif isinstance(action, LoadWeights):
            answers += self._load_ended(now, plan, action, result)
        if self._groups and not plan.batches:
            answers += self._judge(now)
        answers += self._pump(now, plan)
        self._preload(now, plan)
        return answers

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """The request leaves the plan."""
        self._failures.pop(request.id, None)
        self._delays.pop(request.id, None)
        self._plan_of.pop(request.id, None)
        batch = self._batch_of.pop(request.id, None)
        if batch is None:
            return []
        if batch.plan.remove(batch, request):
            self._close(batch)
        else:
            self._joinable.note(batch)
        return self._pump(now, batch.plan)

    def explain(self, now: Nanos, request: PendingRequest) -> str:
        """What the device is behind with that the request was planned on."""
        plan = self._plan_of.get(request.id)
        return "" if plan is None else plan.what_is_wrong(now)

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """Plan the requests anew that were planned for the weights, behind a load if need be."""
        homeless = [request for gpu in gpus for request in self._weights_gone(self._plans[gpu], model)]
        answers = self._again(now, homeless, f"an operator evicted {model}", late=True)
        return answers + [answer for gpu in gpus for answer in self._pump(now, self._plans[gpu])]

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """More devices."""
        self._add(now, worker.gpus)
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """What was planned or sent there is planned anew elsewhere, where its deadline allows."""
        homeless: list[PendingRequest] = []
        for gpu in worker.gpus:
            plan = self._plans.pop(gpu)
            plan.wake_at = FAR
            self._order.remove(plan)
            for model in [model for model, places in self._places.items() if plan in places]:
                self._not_at(plan, model)
            for sent in plan.sent.values():
                homeless += sent.batch.requests
            for batch in list(plan.batches):
                homeless += batch.requests
                self._close(batch)
        return self._again(now, homeless, f"worker {worker.id} was lost")

    def wake(self, now: Nanos) -> list[Answer]:
        """Judge those that wait for it, send what is due."""
        answers: list[Answer] = []
        if self._judge_at <= now:
            answers += self._judge(now)
        while self._wakes and self._wakes[0][0] <= now:
            moment, _, plan = heappop(self._wakes)
            if plan.wake_at == moment:
                answers += self._pump(now, plan)
        return answers

    def next_wakeup(self) -> Nanos | None:
        """The next verdict, or the next batch to send."""
        wakes = self._wakes
        while wakes and wakes[0][2].wake_at != wakes[0][0]:
            heappop(wakes)
        moment = min(self._judge_at, wakes[0][0]) if wakes else self._judge_at
        return moment if moment < FAR else None

    # --- placing -----------------------------------------------------------------------------------------------------

    def _place_at_once(self, now: Nanos, group: GroupKey, request: PendingRequest) -> Plan | None:
        for batch in self._joinable.of(group):
            if batch.capacity - batch.rows >= request.batch_size:
                offer = batch.plan.offer_to_join(now, batch, request.batch_size, request, 0.0)
                if offer is not None:
                    self._accept(now, offer, group, [request])
                    return batch.plan
        for plan in self._some_places(group[0]):
            if not plan.batches and not plan.sent and group[0] not in plan.ready:
                wanted = self._company.wanted(now, group[0], plan.infer_time(now, request.model, 1, group[1]))
                offer = plan.offer(now, request.model, group[1], max(wanted, request.batch_size), request, 0.0, 0)
                if offer is not None and offer.room >= request.batch_size:
                    self._accept(now, offer, group, [request])
                    self._company.begin(now, plan, wanted, self._demand.rate(now, group[0]))
                    return plan
        return None

    def _some_places(self, model: str) -> list[Plan]:
        """Devices with the model's weights, or soon; in turn, if there are many."""
        places = self._places.get(model)
        if places is None:
            return []
        return self._some(places)

    def _some(self, plans: list[Plan]) -> list[Plan]:
        count, choices = len(plans), self._config.choices
        if count <= choices:
            return plans
        self._turn = turn = (self._turn + choices) % count
        chosen = plans[turn : turn + choices]
        return chosen + plans[: choices - len(chosen)]

    def _judge(self, now: Nanos) -> list[Answer]:
        """Place the groups, largest first; refuse what is left of them."""
        groups, self._groups, self._judge_at = self._groups, {}, FAR
        answers: list[Answer] = []
        touched: dict[Plan, None] = {}
        for group, requests in sorted(groups.items(), key=lambda item: -len(item[1])):
            waiting = [request for request in requests if not request.over]
            refused, plans = self._place(now, group, waiting)
            answers += refused
            touched.update(dict.fromkeys(plans))
        for plan in touched:
            answers += self._pump(now, plan)
        return answers

    def _place(
        self, now: Nanos, group: GroupKey, requests: list[PendingRequest], excuse: str = ""
    ) -> tuple[list[Answer], list[Plan]]:
        """Place all that can be, answer the rest; returns the plans that have more to do as well."""
        answers: list[Answer] = []
        touched: list[Plan] = []
        refused: list[PendingRequest] = []
        left = sorted(requests, key=lambda request: request.deadline)
        rows = sum(request.batch_size for request in left)
        place = tried = 0
        while place < len(left):
            first = left[place]
            offer, warm = self._best(now, group, rows, first)
            taken = fitting(left, place, offer.room) if offer is not None else []
            if offer is None or not taken:
                tried += 1
                skip = self._hopeless(now, group, rows, left, place) if tried > MAX_TRIED else alike(left, place)
                refused += left[place : place + skip]
                rows -= sum(request.batch_size for request in left[place : place + skip])
                place += skip
                continue
            if not warm:
                evicted = victims(now, offer.plan, first.model, self._demand)
                assert evicted is not None
                self._load(now, offer.plan, first.model, evicted)
            self._accept(now, offer, group, taken)
            touched.append(offer.plan)
            place, rows, tried = place + len(taken), rows - sum(request.batch_size for request in taken), 0
        if refused:
            answers += self._refuse(now, group, refused, excuse)
        return answers, touched

    def _hopeless(self, now: Nanos, group: GroupKey, rows: int, left: Sequence[PendingRequest], place: int) -> int:
        """How many from ``place`` on to refuse without trying each: those due before the first that can be placed."""
        low, high = place + 1, len(left)
        while low < high:
            middle = (low + high) // 2
            if self._best(now, group, rows, left[middle])[0] is None:
                low = middle + 1
            else:
                high = middle
        return low - place

    def _best(self, now: Nanos, group: GroupKey, rows: int, first: PendingRequest) -> tuple[Offer | None, bool]:
        """The best place for a group, and whether the weights are there, or on their way, already."""
        model, key = first.model, group[1]
        rate = self._demand.rate(now, model.name)
        best: Offer | None = None
        for batch in self._joinable.of(group):
            best = better(best, batch.plan.offer_to_join(now, batch, rows, first, rate))
        for plan in self._some_places(model.name):
            ready = plan.ready.get(model.name, 0)
            best = better(best, plan.offer(now, model, key, rows, first, rate, ready))
        if best is not None:
            return best, True
        for plan in self._some(self._order):
            if can_load(plan, model) and victims(now, plan, model, self._demand) is not None:
                ready = ready_at(now, plan, model)
                offer = plan.offer(now, model, key, rows, first, rate, ready)
                if offer is not None and (best is None or offer.end < best.end):
                    best = offer
        return best, False

    def _accept(self, now: Nanos, offer: Offer, group: GroupKey, requests: list[PendingRequest]) -> None:
        batch = offer.plan.accept(now, offer, requests[0].model, group[1], requests)
        self._joinable.note(batch)
        for request in requests:
            self._batch_of[request.id] = batch
            self._plan_of[request.id] = offer.plan

    def _close(self, batch: Batch) -> None:
        """The batch is no longer planned."""
        self._joinable.drop(batch)
        for request in batch.requests:
            self._batch_of.pop(request.id, None)

    def _refuse(self, now: Nanos, group: GroupKey, requests: list[PendingRequest], excuse: str) -> list[Answer]:
        model = requests[0].model
        places = self._some_places(model.name)
        if not places:
            places = [plan for plan in self._some(self._order) if plan.gpu.can_hold(model.name)]
            self._load_for_later(now, places, model)
        for plan in places:
            plan.claim_room(now)
        for request in requests:
            request.excuse = request.excuse or excuse
        return self._refusals.answers(now, places, group[1], requests)

    # --- sending -----------------------------------------------------------------------------------------------------

    def _pump(self, now: Nanos, plan: Plan) -> list[Answer]:
        """Send what is due on a device."""
        answers: list[Answer] = []
        while (batch := plan.next_batch(now)) is not None:
            self._company.end(now, batch)
            part = plan.split(now, batch)
            if part is None:
                self._close(batch)
            else:
                self._joinable.note(batch)
                for request in part.requests:
                    self._batch_of.pop(request.id, None)
            answers += self._send(now, plan, part or batch)
        if plan.wake_at < FAR:
            heappush(self._wakes, (plan.wake_at, plan.number, plan))
        return answers

    def _send(self, now: Nanos, plan: Plan, batch: Batch) -> list[Answer]:
        """Send a batch, less those that can no longer be in time, because a promise was broken."""
        model, answers = batch.model, list[Answer]()
        start = max(plan.first_start(now), plan.ready.get(model.name, 0))
        while True:
            expected = plan.infer_time(now, model, batch.rows, batch.key)
            by = start + expected + plan.return_delay
            late = [request for request in batch.requests if request.deadline < by]
            if not late:
                break
            for request in late:
                excuse = request.excuse or plan.trouble or "the device is behind its plan"
                request.excuse = excuse
                text = f"{ADMITTED}: {excuse}"
                status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
                self._plan_of.pop(request.id, None)
                answers.append(Answer(request.id, status, text, predicted=by - request.arrival))
                if plan.remove(batch, request):
                    return answers
        latest = min(request.deadline for request in batch.requests) - expected - plan.return_delay
        earliest = plan.earliest_for(now, start)
        infer = plan.gpu.infer(model, batch.requests, earliest, max(earliest, latest), expected, max(start, earliest))
        plan.note_sent(now, infer.id, batch, expected, earliest)
        return answers

    def _infer_ended(self, now: Nanos, plan: Plan, action: Infer, result: Result) -> list[Answer]:
        if isinstance(result, InferResult):
            ended = plan.note_ended(now, action.id, result.exec.begin, result.exec.begin + result.exec.duration)
            for request in ended.batch.requests if ended is not None else ():
                self._plan_of.pop(request.id, None)
            return []
        assert isinstance(result, ErrorResult)
        sent = plan.note_failed(now, action.id, result.message)
        if sent is None:
            return []
        requests = [request for request in sent.batch.requests if not request.over]
        if result.status == Status.INVALID_INPUT:
            for request in requests:
                self._plan_of.pop(request.id, None)
            return [Answer(request.id, Status.INVALID_REQUEST, result.message) for request in requests]
        late = result.status == Status.COULD_NOT_START_IN_TIME
        return self._again(now, requests, f"{plan.gpu}: {result.message}", late=late)

    def _again(self, now: Nanos, requests: Iterable[PendingRequest], why: str, *, late: bool = False) -> list[Answer]:
        """Plan requests anew that were planned or sent already, if that has not been in vain too often."""
        answers: list[Answer] = []
        counts, most = (self._delays, LATE_ATTEMPTS) if late else (self._failures, ATTEMPTS)
        groups: dict[GroupKey, list[PendingRequest]] = {}
        for request in requests:
            self._plan_of.pop(request.id, None)
            if request.over:
                continue
            times = counts[request.id] = counts.get(request.id, 0) + 1
            if times >= most:
                request.excuse = request.excuse or why
                status, text = Status.ERROR, f"it failed {times} times: {why}"
                if late:
                    status, text = Status.CONTROLLER_COULD_NOT_START_IN_TIME, f"{ADMITTED}: {why}"
                answers.append(Answer(request.id, status, text))
            else:
                groups.setdefault((request.model.name, shape_key(request)), []).append(request)
        for group, members in groups.items():
            refused, plans = self._place(now, group, members, why)
            answers += refused
            for plan in plans:
                answers += self._pump(now, plan)
        if len(counts) > 2 * len(self._batch_of) + 1000:
            counts.clear()
        return answers

    # --- weights -----------------------------------------------------------------------------------------------------

    def _add(self, now: Nanos, gpus: Iterable[GPUState]) -> None:
        for gpu in gpus:
            self._last_number += 1
            way = self.state.workers[gpu.worker_id].round_trip // 2
            plan = self._plans[gpu] = Plan(gpu, self._config, self._last_number, way)
            self._order.append(plan)
            for model in gpu.cache:
                self._places.setdefault(model, []).append(plan)
        if self._config.preload:
            self._to_preload = sorted((name for name in self.state.models if name not in self._places), reverse=True)
        for plan in self._order:
            self._preload(now, plan)

    def _load(self, now: Nanos, plan: Plan, model: ModelState, evicted: list[str]) -> None:
        for name in evicted:
            self._not_at(plan, name)
        self._places.setdefault(model.name, []).append(plan)
        load(now, plan, model, evicted)

    def _not_at(self, plan: Plan, model: str) -> None:
        places = self._places.get(model, [])
        if plan in places:
            places.remove(plan)
        if not places:
            self._places.pop(model, None)

    def _load_ended(self, now: Nanos, plan: Plan, action: LoadWeights, result: Result) -> list[Answer]:
        name = action.model
        plan.weights_arrived(name)
        if isinstance(result, LoadWeightsResult):
            model = self.state.models[name]
            plan.loads.add(now, model.info.digest, result.timing.duration)
            waited = plan.last_load_end > action.earliest
            plan.note_delays(now, None if waited else action.earliest, result.timing.begin, result.timing.end)
            plan.last_load_end = result.timing.end
            if result.timing.duration > action.expected_duration:
                plan.trouble = (
                    f"LoadWeights {action.id} of {name} took {result.timing.duration / 1e6:.3f} ms on {plan.gpu}, "
                    f"estimated were {action.expected_duration / 1e6:.3f}"
                )
            if not plan.ready:
                plan.load_free = result.timing.end
            return []
        assert isinstance(result, ErrorResult)
        return self._again(now, self._weights_gone(plan, name), f"{plan.gpu}: {result.message}")

    def _weights_gone(self, plan: Plan, model: str) -> list[PendingRequest]:
        """Take back what is planned for weights that a device no longer has; returns its requests."""
        self._not_at(plan, model)
        homeless: list[PendingRequest] = []
        for batch in list(plan.pins.get(model, ())):
            homeless += batch.requests
            self._close(batch)
            plan.drop(batch)
        return homeless

    def _load_for_later(self, now: Nanos, plans: list[Plan], model: ModelState) -> None:
        """Load a model that is asked for and nowhere, although this request comes too early for it.

        What it displaces must be asked for less than half as often, and not lately: no rotation.
        """
        wanted = self._demand.rate(now, model.name)
        able = [plan for plan in plans if can_load(plan, model) and not plan.ready]
        for plan in sorted(able, key=lambda plan: plan.load_free):
            evicted = victims(now, plan, model, self._demand)
            if evicted is None:
                continue
            last = [self._demand.last(name) for name in evicted]
            recent = any(moment is not None and now - moment < self._config.residency_least for moment in last)
            if not recent or sum(self._demand.rate(now, name) for name in evicted) < wanted / 2:
                self._load(now, plan, model, evicted)
                return

    def _preload(self, now: Nanos, plan: Plan) -> None:
        """Fill what is free of a device's memory, one model at a time, while nothing else is to be loaded."""
        waiting = self._to_preload
        while waiting and waiting[-1] in self._places:
            waiting.pop()
        if not waiting or plan.ready:
            return
        model = self.state.models.get(waiting[-1])
        if model is None:
            waiting.pop()
            return
        if not can_load(plan, model) or plan.gpu.models[model.name].weights_pages > plan.gpu.cache.free:
            return
        waiting.pop()
        self._load(now, plan, model, [])
