"""Measures the work of the requests that arrive, and derives how many devices of each kind are wanted.

The work of a request is the time that a device needs for its rows (`controller.model_work`). Requests that the
scheduler refuses count if more devices would have served them (`HELPED`). The work of each second is added up, and
`controller.device_need` decides from these sums. So the result depends on the load, not on the length of a queue, and
hardly on the number of devices that are present.

Counting takes about a microsecond per request. Memory is constant for each served model and each kind of device.
"""

from collections.abc import Iterator
from math import ceil
from typing import Final

from clockwork.controller.device_need import CAN_WAIT, HOLD, IDLE, LOAD_TARGET, SLOT, WINDOWS, DeviceNeed, Slot
from clockwork.controller.model_work import MAX_SLO, ModelWork
from clockwork.messages import scaling
from clockwork.messages.counts import REFUSAL_STATUSES
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, ModelState, PendingRequest
from clockwork.units import SECOND, Nanos

HELPED: Final = frozenset(
    {
        RefusalReason.DEVICE_BUSY,
        RefusalReason.WOULD_DELAY_OTHERS,
        RefusalReason.START_MISSED,
        RefusalReason.NO_DEVICE,
        RefusalReason.SERVER_FULL,
        RefusalReason.CLIENT_FULL,
    }
)
"""Reasons of refusals that more devices would have avoided.

`RefusalReason.WEIGHTS_NOT_LOADED` is counted as work of loading. `RefusalReason.PROMISE_BROKEN` means that a device was
slower than planned or was lost. With the other reasons, more devices would not help.
"""

_STATUSES: Final = frozenset(int(status) for status in REFUSAL_STATUSES)

MAX_PASSED: Final = HOLD + max(WINDOWS)
"""Limit of the slots that are closed at once. More slots without work would not change the result."""

MAX_KINDS: Final = 64
"""Limit of the kinds of devices that are counted."""


class _Sums:
    """The sums of the present slot for one kind of device, and the decision for this kind."""

    __slots__ = ("cold", "loading", "missed", "need", "patient", "urgent", "used", "variance")

    def __init__(self, devices: int) -> None:
        self.need = DeviceNeed(devices)
        self.clear()

    def clear(self) -> None:
        self.urgent = self.patient = self.variance = self.missed = self.cold = self.loading = 0.0
        self.used = False

    def slot(self) -> Slot:
        if not self.used:
            return IDLE
        work = max(0.0, self.urgent), max(0.0, self.patient)
        return Slot(*work, max(0.0, self.variance), self.missed, self.cold, self.loading)


class Scaling:
    """The work of all kinds of devices, and the number of devices that the work needs."""

    def __init__(self, state: ClockworkState) -> None:
        """Start without work. ``state`` contains the devices in service."""
        self._state = state
        self._slot = 0
        self._slot_end: Nanos = -1  #: end of the present slot; -1: there is no slot yet
        self._kinds: dict[str, _Sums] = {}
        self._models: dict[str, ModelWork] = {}
        self._devices: dict[str, int] = {}  #: number of devices in service by kind, when the slot began
        self._cold: dict[str, None] = {}  #: models with requests that were refused because of their weights
        self._loaded: set[str] = set()  #: models whose weights were loaded in this slot

    # --- counting ----------------------------------------------------------------------------------------------------

    def arrived(self, now: Nanos, model: ModelState, rows: int, slo: Nanos) -> None:
        """Count a request that reaches the scheduler."""
        if now >= self._slot_end:
            self.advance(now)
        work = self._models.get(model.name)
        if work is None:
            work = self._models[model.name] = ModelWork(model)
        if work.slot != self._slot or not work.shares:
            work.begin(self._slot, slo, self._devices)
        elif work.rows >= work.again_at:
            self._update(work, slo > CAN_WAIT)
        work.rows += rows
        work.requests += 1
        work.slos += slo if slo < MAX_SLO else MAX_SLO
        self._add(work, rows, slo, 1)

    def answered(self, request: PendingRequest, status: int, reason: RefusalReason) -> None:
        """Count the response to a request that `arrived` has counted."""
        if status == Status.SUCCESS:
            return
        cold = reason is RefusalReason.WEIGHTS_NOT_LOADED
        if status == Status.TIMEOUT or (status in _STATUSES and (cold or reason in HELPED)):
            self.missed(request.model.name, request.batch_size, cold=cold)
        elif reason is not RefusalReason.PROMISE_BROKEN:
            self.excluded(request.model.name, request.batch_size, request.deadline - request.arrival)

    def missed(self, model: str, rows: int, *, cold: bool = False) -> None:
        """Count rows that `arrived` has counted, and that more devices would have served in time.

        ``cold`` means that the weights could not be loaded in time.
        """
        work = self._models.get(model)
        if work is None:
            return
        work.missed += rows
        if cold:
            self._cold[model] = None
        for kind, seconds in work.shares:
            sums = self._sums(kind)
            if cold:
                sums.cold += seconds * rows
            else:
                sums.missed += seconds * rows

    def excluded(self, model: str, rows: int, slo: Nanos) -> None:
        """Do not count rows that `arrived` has counted, because more devices would not have served them."""
        work = self._models.get(model)
        if work is not None:
            work.rows -= rows
            self._add(work, rows, slo, -1)

    def executed(self, kind: str, model: ModelState, rows: int, duration: Nanos) -> None:
        """Count the measured time of an Infer."""
        work = self._models.get(model.name)
        if work is not None:
            work.note(kind, rows, duration)

    def loaded(self, now: Nanos, kind: str, model: ModelState, duration: Nanos) -> None:
        """Count the measured time of a LoadWeights."""
        if now >= self._slot_end:
            self.advance(now)
        self._loaded.add(model.name)
        sums = self._sums(kind)
        sums.loading += duration / SECOND
        sums.used = True

    def forget(self, model: str) -> None:
        """Forget a model that was removed."""
        self._models.pop(model, None)
        self._cold.pop(model, None)
        self._loaded.discard(model)

    def _sums(self, kind: str) -> _Sums:
        sums = self._kinds.get(kind)
        if sums is None:
            if len(self._kinds) >= MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            sums = self._kinds[kind] = _Sums(self._devices.get(kind, 0))
        return sums

    def _add(self, work: ModelWork, rows: int, slo: Nanos, sign: int, requests: int = 1) -> None:
        """Add the work of some rows, or subtract it. The variance assumes that all requests have equally many rows."""
        for kind, seconds in work.shares:
            sums = self._kinds.get(kind) or self._sums(kind)
            added = seconds * rows
            if slo > CAN_WAIT:
                sums.patient += sign * added
            else:
                sums.urgent += sign * added
            sums.variance += sign * added * added / requests
            sums.used = True

    def _update(self, work: ModelWork, patient: bool) -> None:
        """Compute the cost of a model's rows again, because many rows have arrived in this slot."""
        slo = CAN_WAIT + 1 if patient else 0
        requests = max(1, work.requests)
        self._add(work, work.rows, slo, -1, requests)
        work.update(self._devices)
        work.again_at = 2 * max(1, work.rows)
        self._add(work, work.rows, slo, 1, requests)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def advance(self, now: Nanos) -> None:
        """Close the slots that have ended."""
        if self._slot_end < 0:
            self._slot_end = now + SLOT
        self._devices = self._in_service()
        passed = (now - self._slot_end) // SLOT + 1
        if passed <= 0:
            return
        self._add_missing_loads()
        for kind, present in self._devices.items():
            if kind not in self._kinds:
                self._kinds[kind] = _Sums(present)
        for kind, sums in list(self._kinds.items()):
            devices, slot = self._devices.get(kind, 0), sums.slot()
            sums.clear()
            for number in range(min(passed, MAX_PASSED)):
                sums.need.close(IDLE if number else slot, devices)
            if not devices and slot is IDLE and sums.need.over:
                del self._kinds[kind]
        self._slot += passed
        self._slot_end += passed * SLOT

    def _in_service(self) -> dict[str, int]:
        devices: dict[str, int] = {}
        for gpu in self._state.gpus():
            if not gpu.silent:
                devices[gpu.kind] = devices.get(gpu.kind, 0) + 1
        return devices

    def _add_missing_loads(self) -> None:
        """Add one load for each model with requests that were refused because of their weights."""
        for name in self._cold:
            work = self._models.get(name)
            if work is not None and name not in self._loaded and work.shares:
                kind = work.shares[0][0]
                self._sums(kind).loading += work.load_seconds(kind)
        self._cold.clear()
        self._loaded.clear()

    # --- results -----------------------------------------------------------------------------------------------------

    def kinds(self, now: Nanos) -> tuple[scaling.KindScaling, ...]:
        """Return how many devices of each kind are wanted, and why."""
        if now >= self._slot_end:
            self.advance(now)
        self._devices = devices = self._in_service()
        names = sorted(self._kinds.keys() | devices.keys())
        return tuple([_describe(kind, devices.get(kind, 0), self._sums(kind).need) for kind in names])

    def models(self) -> Iterator[scaling.ModelWork]:
        """Yield the recent work of each model that has received requests. Models may be added between two steps."""
        for name in list(self._models):
            work = self._models.get(name)
            if work is None:
                continue
            rate, missed = work.recent(self._slot)
            for kind, seconds in work.shares:
                cost = work.by_kind[kind].cost
                share = seconds * SECOND / cost if cost else 0.0
                yield scaling.ModelWork(
                    work.model.served_as,
                    kind,
                    rate * share,
                    missed * share,
                    cost / 1e6,
                    rate * seconds,
                    work.model.version,
                )


def _describe(kind: str, devices: int, need: DeviceNeed) -> scaling.KindScaling:
    recent = need.recent()
    work = recent.urgent + recent.patient
    return scaling.KindScaling(
        kind=kind,
        devices=devices,
        wanted=need.wanted,
        why=_why(need),
        needed=need.needed,
        execution=work,
        refused=recent.missed + recent.cold,
        loading=recent.loading,
        target=need.target,
        held_s=need.held() * SLOT / SECOND,
    )


def _why(need: DeviceNeed) -> str:
    """Return the reason for the wanted number of devices."""
    recent, held = need.recent(), need.held()
    work, refused = recent.urgent + recent.patient, recent.missed + recent.cold
    text = f"the requests of the last {WINDOWS[1]} s need {work:.2f} s of device time per second"
    if refused >= 0.005:
        text += f", and {refused:.2f} s of this time were refused or late"
    text += f"; the target is {need.target:.0%} of each device's time"
    if need.loading:
        text += f"; loads of weights need {recent.loading:.2f} s per second, with a target of {LOAD_TARGET:.0%}"
    if need.wanted > max(1, ceil(need.needed)) and held:
        text += f"; an earlier peak counts for another {held * SLOT // SECOND} s"
    return text
