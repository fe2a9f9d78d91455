"""Estimates the time that a device spends on each row of a model, from the measured times and the recent rate.

Theory of operation. A busy device executes large batches, and an idle device executes small ones. So the utilisation of
a half idle fleet does not show how many devices its load needs. This module computes the cost of a row in a fleet that
is just large enough. In such a fleet a batch gathers the rows that arrive while the device executes other batches. A
batch can wait for as long as the SLO, less the batch's execution time. As in the Clockwork scheduler, the cost is
computed for the batch size with the least time per row.

The times are the times of the profile, multiplied by a pace. The pace is the ratio of the times in service to the times
of the profile.
"""

from collections.abc import Mapping
from typing import Final

from clockwork.messages.profile import ModelProfile
from clockwork.state import ModelState
from clockwork.units import SECOND, Nanos

GATHERING: Final = 0.9
"""Share of the time before the deadline in which a batch gathers rows. The rest of this time is a reserve, because
times vary.
"""

MAX_SLO: Final[Nanos] = SECOND
"""A longer SLO does not make batches larger. With this limit, one long SLO hardly changes the average."""

KEPT: Final = 0.7
"""Share of a count that remains after each slot. The counts cover about three slots."""

PACE_WEIGHT: Final = 0.05
"""Weight of one measurement in the pace."""

MIN_PACE: Final = 0.2
MAX_PACE: Final = 5.0


class KindTimes:
    """The times of a model on one kind of device, and its recent rows there."""

    __slots__ = ("_profile", "cost", "executed", "load", "pace", "times")

    def __init__(self, profile: ModelProfile) -> None:
        """Start from the profile."""
        self.pace = 1.0
        self.executed = 0.0  #: decaying count of the rows that devices of this kind executed
        self.cost: float = 0.0  #: time that a device spends on each row, in nanoseconds
        self._use(profile)

    def _use(self, profile: ModelProfile) -> None:
        self._profile = profile
        self.times = {size: float(profile.infer[size].median) for size in profile.batch_sizes}
        self.load = float(profile.load_weights.median)

    def note(self, rows: int, duration: Nanos) -> None:
        """Add the measured time of an Infer."""
        self.executed += rows
        expected = self.times.get(rows)
        if expected:
            ratio = min(MAX_PACE, max(MIN_PACE, duration / expected))
            self.pace += PACE_WEIGHT * (ratio - self.pace)

    def update(self, model: ModelState, profile: ModelProfile, rate: float, slo: float) -> None:
        """Compute the cost of a row, for rows that arrive at this rate per nanosecond."""
        if profile is not self._profile:
            self._use(profile)
        largest = 1 if model.unbatched else profile.worthwhile_batch_size
        best = 0.0
        for size, time in self.times.items():
            taken = time * self.pace
            if best and (size > largest or taken > slo):
                break
            rows = min(size, max(1.0, rate * GATHERING * (slo - taken)))
            if not best or taken / rows < best:
                best = taken / rows
        self.cost = best


class ModelWork:
    """The recent requests of one model. Counts of rows decay by `KEPT` with each slot."""

    __slots__ = (
        "again_at",
        "by_kind",
        "missed",
        "model",
        "rate",
        "requests",
        "rows",
        "shares",
        "slo",
        "slos",
        "slot",
        "weight",
    )

    def __init__(self, model: ModelState) -> None:
        """Start without requests."""
        self.model = model
        self.slot = -1  #: slot in which the model's last request arrived
        self.rows = 0  #: rows that arrived in this slot
        self.again_at = 0  #: number of rows at which `shares` is computed again in this slot
        self.requests = 0  #: requests that arrived in this slot
        self.slos: Nanos = 0  #: sum of the SLOs of these requests
        self.slo: float = 0.0  #: average SLO of recent requests
        self.rate = self.missed = 0.0  #: decaying counts of the rows that arrived, and of the rows that were missed
        self.weight = 0.0  #: decaying count of slots
        self.by_kind: dict[str, KindTimes] = {}
        self.shares: tuple[tuple[str, float], ...] = ()  #: device-seconds of a row, divided among kinds of devices

    def begin(self, slot: int, slo: Nanos, devices: Mapping[str, int]) -> None:
        """Begin a slot with a request that has this SLO. ``devices`` is the number of devices by kind."""
        self.age(slot)
        self.slot = slot
        self.again_at = max(2, int(self.recent(slot)[0]) + 1)
        if not self.slo:
            self.slo = float(min(slo, MAX_SLO))
        for kind in [kind for kind in self.by_kind if kind not in self.model.profiles]:
            del self.by_kind[kind]
        for times in self.by_kind.values():
            times.executed *= KEPT
        self.update(devices)

    def age(self, slot: int) -> None:
        """Add the slot of the last request to the decaying counts, and let them decay until ``slot``."""
        if self.slot < 0:
            return
        passed = slot - self.slot
        if not passed:
            return
        if self.requests:
            self.slo += 0.5 * (self.slos / self.requests - self.slo)
        kept = KEPT**passed
        full = 1 / (1 - KEPT)
        self.rate = (self.rate + self.rows / KEPT) * kept
        self.missed *= kept
        self.weight = full - (full - self.weight) * kept
        self.rows = self.requests = self.slos = 0
        self.slot = slot

    def recent(self, slot: int) -> tuple[float, float]:
        """Return the rows per second that arrived before ``slot``, and the part of them that was missed."""
        passed = slot - self.slot
        rate, missed, weight = self.rate, self.missed, self.weight
        if passed > 0:
            kept, full = KEPT**passed, 1 / (1 - KEPT)
            rate, missed = (rate + self.rows / KEPT) * kept, missed * kept
            weight = full - (full - weight) * kept
        return (rate / weight, min(rate, missed) / weight) if weight else (float(self.rows), 0.0)

    def note(self, kind: str, rows: int, duration: Nanos) -> None:
        """Add the measured time of an Infer on a device of this kind."""
        times = self._times(kind)
        if times is not None:
            times.note(rows, duration)

    def load_seconds(self, kind: str) -> float:
        """Return the time of a load of the weights, or 0 if the model was not measured on this kind of device."""
        times = self.by_kind.get(kind)
        return 0.0 if times is None else times.load / SECOND

    def _times(self, kind: str) -> KindTimes | None:
        times = self.by_kind.get(kind)
        if times is None and (profile := self.model.profiles.get(kind)) is not None:
            times = self.by_kind[kind] = KindTimes(profile)
        return times

    def update(self, devices: Mapping[str, int]) -> None:
        """Compute the cost of a row, and divide it among kinds of devices in proportion to the rows executed there."""
        rate = max(self.recent(self.slot)[0], self.rows) / SECOND
        for kind, profile in self.model.profiles.items():
            times = self._times(kind)
            assert times is not None
            times.update(self.model, profile, rate, self.slo)
        executed = sum([times.executed for times in self.by_kind.values()])
        if executed >= 1:
            found = [(kind, times.cost * times.executed / executed) for kind, times in self.by_kind.items()]
            self.shares = tuple([(kind, cost / SECOND) for kind, cost in found if cost])
        elif self.by_kind:
            present = [kind for kind in self.by_kind if devices.get(kind)] or list(self.by_kind)
            fastest = min(present, key=lambda kind: self.by_kind[kind].cost)
            self.shares = ((fastest, self.by_kind[fastest].cost / SECOND),)
