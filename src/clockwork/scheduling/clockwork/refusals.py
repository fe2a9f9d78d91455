"""What a client is told whose request cannot be in time: why, when it would have been done, and when to come back.

Theory of operation. A group that is refused is cut into batches of the size that an empty device could do within the
request's SLO. Each comes back when the plan will have room for it, one batch after the other: `Plan.booked` is the
moment up to which a device has such appointments. Nothing is reserved for them; who does not come costs nothing.
"""

from typing import Final

from clockwork.messages.commands import Answer
from clockwork.messages.status import Status
from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.plan import Plan
from clockwork.scheduling.common import NO_DEVICE
from clockwork.scheduling.shapes import ShapeKey
from clockwork.state import ModelState, PendingRequest
from clockwork.units import SECOND, Nanos, show_duration

HOPELESS_RETRY: Final[Nanos] = 1 * SECOND
"""When to come back with an SLO that no device can meet: things would have to change first."""

MAX_RETRY_TIMES: Final = 4096
"""Groups of requests whose last retry time is remembered; the ones that were refused longest ago are forgotten."""

ADMITTED: Final = "admitted, and yet it cannot be in time"
"""What a request is told whose promise is broken; no refusal says so."""


class _Appointment:
    """When to come back, for how many rows more."""

    __slots__ = ("at", "room")

    def __init__(self, at: Nanos, room: int) -> None:
        self.at = at
        self.room = room


class Refusals:
    """See the module."""

    def __init__(self, config: ClockworkConfig) -> None:
        """See `ClockworkConfig`."""
        self._config = config
        self._appointments: dict[tuple[str, ShapeKey], _Appointment] = {}  #: the last of each group

    def answers(self, now: Nanos, plans: list[Plan], key: ShapeKey, requests: list[PendingRequest]) -> list[Answer]:
        """Refuse requests of one group; ``plans`` are the devices that might have served them."""
        model = requests[0].model
        plans = [plan for plan in plans if plan.gpu.kind in model.profiles and not plan.gpu.silent]
        if not plans:
            text = NO_DEVICE.format(model=model.name)
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, text) for request in requests]
        plan = min(plans, key=lambda plan: max(plan.tail(now), plan.booked))
        start = max(plan.tail(now), _waits(now, plan, model))
        answers: list[Answer] = []
        group = (model.name, key)
        appointment = self._appointments.get(group)
        soonest = now + self._config.verdict_delay
        for request in requests:
            full = appointment is None or appointment.room < request.batch_size or appointment.at < soonest
            if full:
                appointment = self._book(now, plan, model, key, request, start)
            if appointment is not None:
                appointment.room -= request.batch_size
                self._remember(group, appointment)
            would = start + plan.infer_time(now, model, request.batch_size, key) + plan.return_delay
            answers.append(_answer(now, request, would, appointment))
        return answers

    def _remember(self, group: tuple[str, ShapeKey], appointment: _Appointment) -> None:
        known = self._appointments
        if known.pop(group, None) is None and len(known) >= MAX_RETRY_TIMES:
            del known[next(iter(known))]
        known[group] = appointment

    @property
    def remembered(self) -> int:
        """Groups whose last retry time is known."""
        return len(self._appointments)

    def _book(
        self, now: Nanos, plan: Plan, model: ModelState, key: ShapeKey, request: PendingRequest, start: Nanos
    ) -> _Appointment | None:
        """An appointment for a batch with this request; None if an idle device could not do it in time either."""
        slo = request.deadline - request.arrival
        best: tuple[float, int, Nanos] | None = None
        for size in plan.sizes(model):
            time = plan.infer_time(now, model, size, key)
            margin = self._config.safety_margin + int(self._config.safety_share * slo)
            alone = plan.send_delay + time + plan.return_delay + margin
            if size >= request.batch_size and alone <= slo and (best is None or size / time > best[0]):
                best = (size / time, size, time)
        if best is None:
            return None
        _, size, time = best
        margin = self._config.safety_margin + int(self._config.safety_share * slo)
        fits = start + time + plan.return_delay + margin - slo
        at = max(fits, plan.booked, now + self._config.verdict_delay)
        at = min(at, now + self._config.retry_horizon)
        plan.booked = at + time
        return _Appointment(at, size)


def _waits(now: Nanos, plan: Plan, model: ModelState) -> Nanos:
    """When the model's weights could be on the device; 0 if they are."""
    if model.name in plan.ready:
        return plan.ready[model.name]
    if model.name in plan.gpu.cache:
        return 0
    return max(plan.load_free, now) + plan.load_time(now, model)


def _answer(now: Nanos, request: PendingRequest, would: Nanos, appointment: _Appointment | None) -> Answer:
    predicted = would - request.arrival
    text = f"it would be done {show_duration(would - request.deadline)} after its deadline"
    if would <= request.deadline:
        text = "it would be done in time only at the expense of others"
    if request.excuse:
        text = f"{ADMITTED}: {request.excuse}; {text}"
    if appointment is not None:
        retry = appointment.at - now
    else:
        retry = HOPELESS_RETRY
        text += "; no device is fast enough for this slo"
    status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
    return Answer(request.id, status, text, predicted=predicted, retry_after=retry)
