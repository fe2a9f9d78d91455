"""Answers requests that cannot be in time, with the reason, the predicted completion and a retry time.

Theory of operation. A refused group of requests is divided into batches that an idle device could execute within the
requests' SLO. All requests of such a batch get the same retry time: the time when the plan will have room for the
batch. The retry times on one device are spaced so that each batch can be executed before the next. `Plan.booked` is the
time when the last of these batches would end. The plan reserves no time for retries, so a client that does not retry
costs nothing.
"""

from typing import Final

from clockwork.messages.commands import NO_RETRY, Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.counterfactual import KeptDecision
from clockwork.scheduling.clockwork.open_batches import GroupKey
from clockwork.scheduling.clockwork.plan import Plan
from clockwork.scheduling.common import NO_DEVICE
from clockwork.scheduling.shapes import ShapeKey
from clockwork.state import ModelState, PendingRequest, Verdict
from clockwork.units import Nanos, show_duration

MAX_RETRY_TIMES: Final = 4096
"""Limit of the groups whose last retry time is stored. The group with the oldest refusal is forgotten first."""

ADMITTED: Final = "admitted, but will miss its deadline"
"""Beginning of the answer to a request whose promise is broken. No refusal at arrival begins with these words."""

ASSUMED: Final = " (assumed, because the model was not measured; lower it with --unmeasured-cap, or set a longer SLO)"
"""End of the text of a refusal if the model was not measured."""


class _RetryTime:
    """The retry time of a batch of refused requests, and the number of rows that still fit into the batch."""

    __slots__ = ("at", "room")

    def __init__(self, at: Nanos, room: int) -> None:
        self.at = at
        self.room = room


class Refusals:
    """Answers refused requests, and stores the last retry time of each group."""

    def __init__(self, config: ClockworkConfig) -> None:
        """Start without retry times."""
        self._config = config
        self._retry_times: dict[GroupKey, _RetryTime] = {}  #: the last retry time of each group

    def answers(
        self,
        now: Nanos,
        plans: list[Plan],
        key: ShapeKey,
        requests: list[PendingRequest],
        kept: KeptDecision | None = None,
    ) -> list[Answer]:
        """Refuse requests of one group. ``plans`` are the plans of the devices that might have served the requests."""
        model = requests[0].model
        plans = [plan for plan in plans if plan.gpu.kind in model.profiles and not plan.gpu.silent]
        if not plans:
            return [_refused_without_device(request) for request in requests]
        plan = min(plans, key=lambda plan: max(plan.tail(now), plan.booked))
        tail = plan.tail(now)
        start = max(tail, _ready_at(now, plan, model))
        answers: list[Answer] = []
        group = (model.name, key)
        retry = self._retry_times.get(group)
        soonest = now + self._config.verdict_delay
        ahead = plan.ahead() if plan.records else ()
        for request in requests:
            if retry is None or retry.room < request.batch_size or retry.at < soonest:
                retry = self._next_retry_time(now, plan, model, key, request, start)
            if retry is not None:
                retry.room -= request.batch_size
                self._keep(group, retry)
            takes = plan.device.infer_time(now, model, request.batch_size, key) + plan.device.return_delay
            end = start + takes
            if plan.records:
                request.verdict = self._verdict(now, plan, model, start, end, ahead, kept)
            text, reason = _text(request, end), RefusalReason.DEVICE_BUSY
            if end <= request.deadline:
                reason = RefusalReason.WOULD_DELAY_OTHERS
            elif tail + takes <= request.deadline:
                reason = RefusalReason.WEIGHTS_NOT_LOADED
            if retry is None:
                fastest = min(self._time_alone(now, plan, key, request) for plan in plans)
                reason = RefusalReason.DEVICE_TOO_SLOW
                text += f"; no device can meet this SLO: the fastest needs {show_duration(fastest)}"
                if model.profiles[plan.device.gpu.kind].unmeasured:
                    text += ASSUMED
            predicted, retry_after = end - request.arrival, NO_RETRY if retry is None else retry.at - now
            status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
            reason = _reason(request, reason)
            answers.append(
                Answer(request.id, status, text, predicted=predicted, retry_after=retry_after, reason=reason)
            )
        return answers

    def _verdict(
        self,
        now: Nanos,
        plan: Plan,
        model: ModelState,
        start: Nanos,
        end: Nanos,
        ahead: tuple[tuple[str, int], ...],
        kept: KeptDecision | None,
    ) -> Verdict:
        """Return the parts of the decision to refuse a request whose predicted completion is ``end``."""
        device = plan.device
        done = end - device.return_delay
        return Verdict(
            now,
            plan.gpu.label,
            start,
            done,
            _ready_at(now, plan, model),
            device.send_delay,
            device.return_delay,
            self._config.safety_margin + int(self._config.safety_share * (done - now)),
            len(device.sent),
            len(plan.batches),
            ahead=ahead,
            kept=kept,
        )

    @property
    def kept(self) -> int:
        """Number of groups whose last retry time is stored."""
        return len(self._retry_times)

    def forget(self, model: str) -> None:
        """Forget the retry times of a model that was removed."""
        for group in [group for group in self._retry_times if group[0] == model]:
            del self._retry_times[group]

    def _keep(self, group: GroupKey, retry: _RetryTime) -> None:
        known = self._retry_times
        if known.pop(group, None) is None and len(known) >= MAX_RETRY_TIMES:
            del known[next(iter(known))]
        known[group] = retry

    def _time_alone(self, now: Nanos, plan: Plan, key: ShapeKey, request: PendingRequest) -> Nanos:
        """Return the shortest SLO that an idle device could meet for this request."""
        slo = request.deadline - request.arrival
        margin = self._config.safety_margin + int(self._config.safety_share * slo)
        device = plan.device
        time = device.infer_time(now, request.model, request.batch_size, key)
        return device.send_delay + time + device.return_delay + margin

    def _next_retry_time(
        self, now: Nanos, plan: Plan, model: ModelState, key: ShapeKey, request: PendingRequest, start: Nanos
    ) -> _RetryTime | None:
        """Return the retry time for a batch with this request, or None if even an idle device would be too slow."""
        slo = request.deadline - request.arrival
        device = plan.device
        margin = self._config.safety_margin + int(self._config.safety_share * slo)
        best: tuple[float, int, Nanos] | None = None
        for size in device.times.sizes(model):
            time = device.infer_time(now, model, size, key)
            alone = device.send_delay + time + device.return_delay + margin
            if size >= request.batch_size and alone <= slo and (best is None or size / time > best[0]):
                best = (size / time, size, time)
        if best is None:
            return None
        _, size, time = best
        fits = start + time + device.return_delay + margin - slo
        at = max(fits, plan.booked, now + self._config.verdict_delay)
        at = min(at, now + self._config.retry_horizon)
        plan.booked = at + time
        return _RetryTime(at, size)


def _ready_at(now: Nanos, plan: Plan, model: ModelState) -> Nanos:
    """Return the time at which the model's weights could be on the device, or 0 if they are on the device now."""
    device = plan.device
    if model.name in device.ready:
        return device.ready[model.name]
    if model.name in plan.gpu.cache:
        return 0
    return max(device.load_free, now) + device.load_time(now, model)


def _refused_without_device(request: PendingRequest) -> Answer:
    text, reason = NO_DEVICE.format(model=request.model.served_as), _reason(request, RefusalReason.NO_DEVICE)
    if request.reason:
        text = f"{ADMITTED}: {request.reason}; {text}"
    return Answer(request.id, Status.SKIPPED_BY_CONTROLLER, text, reason=reason)


def _reason(request: PendingRequest, reason: RefusalReason) -> RefusalReason:
    """Return the reason of a refusal. If the request was admitted before, the reason is the broken promise."""
    return RefusalReason.PROMISE_BROKEN if request.reason else reason


def _text(request: PendingRequest, end: Nanos) -> str:
    """Return the text for the refusal of a request whose predicted completion is ``end``."""
    text = f"predicted completion is {show_duration(end - request.deadline)} past the deadline"
    if end <= request.deadline:
        text = "admitting it would make an admitted request late"
    return f"{ADMITTED}: {request.reason}; {text}" if request.reason else text
