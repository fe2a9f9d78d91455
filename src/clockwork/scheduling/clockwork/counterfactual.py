"""Computes what would have happened to a request under other circumstances.

Theory of operation. When the scheduler refuses a group of requests, it keeps a copy of the plans that it considered.
The copy contains the times of the planned batches, the estimates for the group, the delays, and the claims. To answer
a question, real `Plan` objects are made from the copies, and are asked for offers as in a live decision. So the answers
are the scheduler's own.

Copies take time and memory. So at most one group per `KEEP_EVERY` is copied, and only the last `MAX_KEPT` copies are
kept. A plan with more than `MAX_BATCHES` batches is not copied. Without a copy, only the times without other work and
without a load of weights are known, from the verdict (`what_if_undisturbed`).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from clockwork.messages.explanation import ALONE, OTHER_SLO, SPARE_DEVICE, WARM_WEIGHTS, WhatIf
from clockwork.messages.results import GPUInfo
from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.device import Device, SentInfer
from clockwork.scheduling.clockwork.placing import better
from clockwork.scheduling.clockwork.plan import Offer, Plan, PlannedBatch
from clockwork.scheduling.clockwork.server_load import ServerLoad
from clockwork.scheduling.clockwork.times import InferTimes
from clockwork.scheduling.clockwork.weights import Weights
from clockwork.scheduling.shapes import ShapeKey
from clockwork.state import GPUState, ModelState, PendingRequest, Verdict
from clockwork.state.gpu import ActionQueue
from clockwork.units import MILLISECOND, SECOND, Nanos

KEEP_EVERY: Final[Nanos] = 20 * MILLISECOND
"""Shortest time between two decisions whose state is kept. A copy of a plan takes up to 0.2 ms."""

MAX_KEPT: Final = 500
"""Number of decisions whose state is kept."""

MAX_PLANS: Final = 4
"""Number of plans that are kept of one decision. Plans of devices that have the weights come first."""

MAX_CONSIDERED: Final = 16
"""Number of devices that are searched for plans to keep if few devices have the weights."""

MAX_BATCHES: Final = 100
"""Largest number of batches in a plan that is kept."""

MAX_GROUP: Final = 64
"""Number of requests of a group whose deadlines are kept. Only the rows of the others are counted."""

MAX_SLO: Final[Nanos] = 100 * SECOND
"""Longest SLO that is tried."""

STEP: Final[Nanos] = MILLISECOND // 10
"""Precision of the SLO with which a request would have been admitted."""


class _KeptBatch:
    """A planned batch. ``joinable`` means that a request of the refused group might have joined it."""

    __slots__ = ("capacity", "due", "joinable", "ready", "reserved", "rows")

    def __init__(self, batch: PlannedBatch, model: ModelState, key: ShapeKey) -> None:
        self.capacity, self.rows = batch.capacity, batch.rows
        self.reserved, self.due, self.ready = batch.reserved, batch.due, batch.ready
        self.joinable = batch.model is model and batch.key == key


class _KeptTimes(InferTimes):
    """The estimates of one model and shape at the time of the decision."""

    def __init__(
        self, kind: str, window: int, sizes: tuple[int, ...], largest: int, times: Mapping[int, Nanos]
    ) -> None:
        super().__init__(kind, window)
        self._kept_sizes, self._kept_largest, self._kept_times = sizes, largest, times

    def sizes(self, model: ModelState) -> tuple[int, ...]:
        return self._kept_sizes

    def worthwhile_size(self, model: ModelState, key: ShapeKey) -> int:
        return self._kept_largest

    def by_size(self, now: Nanos, model: ModelState, key: ShapeKey) -> Mapping[int, Nanos]:
        return self._kept_times


class _KeptPlan:
    """A copy of one plan. ``ready`` is when the model's weights can be on the device; None: they cannot be loaded.

    ``held`` means that the device has the weights, or is loading them.
    """

    def __init__(
        self, now: Nanos, plan: Plan, model: ModelState, key: ShapeKey, ready: Nanos | None, alone: Nanos
    ) -> None:
        device = plan.device
        self.kind = plan.gpu.kind
        self.free = device.first_start(now)
        self.busy = bool(device.sent)
        self.send_delay, self.return_delay = device.send_delay, device.return_delay
        self.ready = ready
        self.held = model.name in device.ready or model.name in plan.gpu.cache
        self.claim = plan.claim
        self.alone = alone
        self.batches = [_KeptBatch(batch, model, key) for batch in plan.batches]
        self.sizes = device.times.sizes(model)
        self.largest = device.times.worthwhile_size(model, key)
        self.times = dict(device.times.by_size(now, model, key))

    def plan(self, config: ClockworkConfig, model: ModelState, key: ShapeKey, *, idle: bool) -> Plan:
        """Return a plan with the state of the copy. An ``idle`` plan has no batches, and its device is free."""
        gpu = GPUState("", GPUInfo(0, self.kind, 0), {}, ActionQueue(), {})
        device = Device(gpu, config, 0)
        device.times = _KeptTimes(self.kind, config.window, self.sizes, self.largest, self.times)
        device.send_delay, device.return_delay = self.send_delay, self.return_delay
        plan = Plan(device, config, 0, ServerLoad())
        if idle:
            return plan
        device.free = self.free
        plan.claim = self.claim
        if self.busy:
            device.sent[0] = SentInfer(model, key, [], rows=0, expected=0, earliest=0)
        for kept in self.batches:
            batch = PlannedBatch(plan, model, key, kept.capacity, kept.reserved)
            batch.rows, batch.due, batch.ready = kept.rows, kept.due, kept.ready
            plan.batches.insert(batch, None)
        return plan


_Plans = Sequence[tuple[_KeptPlan, Plan]]
"""Copies of plans, and plans that were made from them."""


class KeptDecision:
    """The state of a decision about one group of requests."""

    __slots__ = ("config", "key", "model", "now", "others", "plans", "rate", "rows")

    def __init__(
        self,
        now: Nanos,
        model: ModelState,
        key: ShapeKey,
        group: Sequence[PendingRequest],
        rate: float,
        config: ClockworkConfig,
        plans: list[_KeptPlan],
    ) -> None:
        """``group`` are all requests of the group. ``rate`` is the model's demand in requests per nanosecond."""
        self.now = now
        self.model = model
        self.key = key
        ordered = sorted([(request.deadline, request.batch_size) for request in group])
        self.rows = tuple(ordered[:MAX_GROUP])  #: deadline and rows of the first requests
        self.others = sum([rows for _, rows in ordered[MAX_GROUP:]])  #: number of rows of the other requests
        self.rate = rate
        self.config = config
        self.plans = plans

    def what_if(self, request: PendingRequest) -> tuple[WhatIf, ...]:
        """Return what would have happened to one of the requests under other circumstances."""
        if not self.plans:
            return ()
        found = []
        slo = request.deadline - request.arrival
        plans = [(kept, kept.plan(self.config, self.model, self.key, idle=False)) for kept in self.plans]
        if (needed := self._needed_slo(request, slo, plans)) is not None:
            found.append(self._told(OTHER_SLO, needed, request, self._offer(request, needed, plans)))
        idle = [(kept, kept.plan(self.config, self.model, self.key, idle=True)) for kept in self.plans]
        found.append(self._told(SPARE_DEVICE, None, request, self._offer(request, slo, idle, warm=True)))
        if any(plan.ready != 0 for plan in self.plans):
            found.append(self._told(WARM_WEIGHTS, None, request, self._offer(request, slo, plans, warm=True)))
        alone = min(plan.send_delay + plan.alone + plan.return_delay for plan in self.plans)
        found.append(WhatIf(ALONE, None, alone <= slo, alone))
        return tuple(found)

    def _needed_slo(self, request: PendingRequest, slo: Nanos, plans: _Plans) -> Nanos | None:
        """Return an SLO, in steps of `STEP`, with which the request would have been admitted, or None.

        A shorter SLO may suffice if the other requests of the group would have been placed differently.
        """
        low, high = slo // STEP, max(1, slo // STEP)
        while self._offer(request, high * STEP, plans) is None:
            low, high = high, 2 * high
            if high * STEP > MAX_SLO:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._offer(request, middle * STEP, plans) is None:
                low = middle
            else:
                high = middle
        return high * STEP

    def _offer(self, request: PendingRequest, slo: Nanos, plans: _Plans, *, warm: bool = False) -> Offer | None:
        """Return the best offer for the request with another SLO, by the rules of `Placing`.

        ``warm`` means that the weights are on the devices.
        """
        first = PendingRequest(
            request.id,
            request.client_id,
            request.client_request_id,
            self.model,
            request.input,
            None,
            request.arrival,
            request.arrival + slo,
        )
        best: Offer | None = None
        other: Offer | None = None  #: the best offer of a device that has to load the weights
        rows = self._rows(request, first.deadline)
        for kept, plan in plans:
            for batch, copy in zip(plan.batches, kept.batches, strict=False):
                if copy.joinable:
                    best = better(best, plan.offer_to_join(self.now, batch, rows, first, self.rate))
        for kept, plan in plans:
            ready = 0 if warm else kept.ready
            if ready is None:
                continue
            offer = plan.offer(self.now, self.model, self.key, rows, first, self.rate, ready)
            if warm or kept.held:
                best = better(best, offer)
            elif offer is not None and (other is None or offer.end < other.end):
                other = offer
        return best or other

    def _rows(self, request: PendingRequest, deadline: Nanos) -> int:
        """Return the rows of the requests that would have been decided together with the request, or after it.

        A group is decided in the order of the deadlines. ``deadline`` is the new deadline of the request.
        """
        rows = self.others + sum([rows for due, rows in self.rows if due >= deadline])
        return rows if request.deadline >= deadline else rows + request.batch_size

    def _told(self, change: str, value: Nanos | None, request: PendingRequest, offer: Offer | None) -> WhatIf:
        if offer is None:
            return WhatIf(change, value, False, None)
        return WhatIf(change, value, True, offer.end + offer.plan.device.return_delay - request.arrival)


def what_if_undisturbed(request: PendingRequest, verdict: Verdict, time: Nanos) -> tuple[WhatIf, ...]:
    """Return when a request would have been answered with loaded weights, and without other work on the device.

    ``time`` is the estimate for the request as a batch of its own.
    """
    found = []
    slo = request.deadline - request.arrival
    if verdict.free:
        end = verdict.free + verdict.end - verdict.start
        warm = end + verdict.return_delay - request.arrival
        found.append(WhatIf(WARM_WEIGHTS, None, warm <= slo, warm))
    alone = verdict.send_delay + time + verdict.return_delay
    found.append(WhatIf(ALONE, None, alone <= slo, alone))
    return tuple(found)


class Keeper:
    """Decides which decisions are kept, and limits their number."""

    def __init__(self, config: ClockworkConfig, weights: Weights) -> None:
        """Start without kept decisions."""
        self._config = config
        self._weights = weights
        self._kept: deque[KeptDecision] = deque()
        self._next: Nanos = 0

    def keep(
        self,
        now: Nanos,
        plans: Sequence[Plan],
        key: ShapeKey,
        requests: Sequence[PendingRequest],
        group: Sequence[PendingRequest],
        rate: float,
    ) -> KeptDecision | None:
        """Copy the state of a decision that refuses these requests of a group, or return None."""
        if now < self._next:
            return None
        self._next = now + KEEP_EVERY
        first, model = requests[0], requests[0].model
        considered = dict.fromkeys(plans)
        if len(plans) < MAX_PLANS:  # a device may load the weights if no device that has them can serve the request
            considered |= dict.fromkeys(islice(self._weights.plans, MAX_CONSIDERED))
        copies = []
        for plan in considered:
            if plan.gpu.silent or plan.gpu.kind not in model.profiles or len(plan.batches) > MAX_BATCHES:
                continue
            ready = self._ready(now, plan, model)
            if ready is None and plan not in plans:
                continue
            alone = plan.device.infer_time(now, model, first.batch_size, key)
            copies.append(_KeptPlan(now, plan, model, key, ready, alone))
            if len(copies) == MAX_PLANS:
                break
        decision = KeptDecision(now, model, key, group, rate, self._config, copies)
        self._kept.append(decision)
        if len(self._kept) > MAX_KEPT:
            self._kept.popleft().plans = []
        return decision

    def forget(self, model: ModelState) -> None:
        """Forget the decisions about a model that was removed."""
        self._kept = deque(decision for decision in self._kept if decision.model is not model)

    def _ready(self, now: Nanos, plan: Plan, model: ModelState) -> Nanos | None:
        device = plan.device
        if model.name in device.ready:
            return device.ready[model.name]
        if model.name in plan.gpu.cache:
            return 0
        if self._weights.can_load(plan, model) and self._weights.victims(now, plan, model) is not None:
            return device.ready_at(now, model)
        return None
