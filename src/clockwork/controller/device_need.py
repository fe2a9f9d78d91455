"""Decides how many devices of one kind are wanted, from the work of each second.

Theory of operation. A device should be busy for at most `TARGET` of its time, so that a growing load finds room while a
new device starts. So work of 4.5 device-seconds per second needs five devices.

The number rises fast: the work is averaged over several windows, and the largest average counts. The shortest window is
three seconds. Chance must not cause a step up, so each average is lowered by some standard deviations (`CHANCE`).

The number falls slowly: it never falls below the largest need of the last `HOLD` slots. For this purpose the need is
computed with a lower target (`TARGET` less `GAP`), so that a load at the border of two numbers does not change the
number again and again.

Clients whose requests can wait (an SLO longer than `CAN_WAIT`) often send a new request for each answer. Such clients
keep any number of devices busy, so for their requests more devices are wanted only if requests are refused or late.

The target adapts: the fleet may have all wanted devices and still refuse requests, for example because SLOs are short
or times vary. In this case, devices cannot be busy for `TARGET` of their time. The target is lowered to the share of
their time for which the devices were busy, and rises to `TARGET` again over `RECOVERY` slots. The refusals of a slot in
which the fleet changes do not count, because new devices must first load weights. A scheduler also refuses a few
requests that more devices would not serve, so the target falls only if more than `TOO_MUCH_MISSED` of the work is
refused or late in each of `SETTLED` slots.

The rule for rounding follows from the target: ``n`` devices are enough if they are busy for at most the target. So the
number is rounded up, and the reserve of the target is never used to save the last device. A fleet of ``n`` devices is
then at most one device larger than necessary, which is much for a small fleet: two devices may be wanted where 1.1
would do. Rounding to the nearest number instead would refuse up to a third of the work of a fleet of one device.
"""

from collections import deque
from math import ceil, sqrt
from typing import Final, NamedTuple

from clockwork.units import SECOND, Nanos

SLOT: Final[Nanos] = SECOND
"""Length of the steps in which work is added up."""

WINDOWS: Final = (3, 10, 30)
"""Numbers of slots over which the work is averaged."""

TARGET: Final = 0.9
"""Share of its time for which a device should execute."""

MIN_TARGET: Final = 0.5
"""Limit below which the target never falls. So wrong refusals can at most double the wanted number of devices."""

CHANCE: Final = (2.0, 1.5, 1.0)
"""Number of standard deviations by which the average of each window is lowered.

The largest need of `HOLD` slots counts. These slots contain 100, 30 or 10 separate windows. The expected largest of so
many normally distributed values is 2.5, 2.0 or 1.5 standard deviations above the mean. Half a deviation less finds a
growing load earlier, and a steady load still hardly gains a device by chance.
"""

GAP: Final = 0.08
"""Difference between the targets for more and for fewer devices."""

LOAD_TARGET: Final = 0.8
"""Share of its time for which a device should load weights."""

CAN_WAIT: Final[Nanos] = 5 * SECOND
"""Requests with a longer SLO can wait while devices start."""

HOLD: Final = 300
"""Number of slots for which the largest need is kept."""

START: Final = 60
"""Number of slots after the start in which at least the devices in service are wanted. `HOLD` applies after these
slots.
"""

MISSED_SHARE: Final = 0.001
"""If no more than this share of the work is refused or late, the refused and late work is ignored."""

TOO_MUCH_COLD: Final = 0.01
"""Share of work that is refused because of its weights, above which devices are wanted for loading."""

TOO_MUCH_MISSED: Final = 0.02
"""Share of refused or late work that lowers the target if the fleet has all wanted devices."""

SETTLED: Final = 5
"""Number of successive slots with missed requests, in spite of all wanted devices, after which the target falls."""

REDUCTION: Final = 0.95
"""New target after missed requests, relative to the share of their time for which the devices were busy meanwhile."""

RECOVERY: Final = 1800
"""Number of slots over which a lowered target rises to `TARGET` again."""


class Slot(NamedTuple):
    """The work of one slot, in device-seconds.

    - ``urgent``: work of requests with an SLO of at most `CAN_WAIT`
    - ``patient``: work of requests with a longer SLO
    - ``variance``: sum of the squares of the work of each request
    - ``missed``: part of ``urgent`` and ``patient`` that was refused or late because all devices were busy
    - ``cold``: part of ``urgent`` and ``patient`` that was refused because weights could not be loaded in time
    - ``loading``: work of loading weights, including the loads for ``cold``
    """

    urgent: float = 0.0
    patient: float = 0.0
    variance: float = 0.0
    missed: float = 0.0
    cold: float = 0.0
    loading: float = 0.0


IDLE: Final = Slot()


class _Average(NamedTuple):
    """The averages of the last slots. ``error`` is the standard deviation of the work."""

    urgent: float
    work: float
    error: float
    missed: float
    cold: float
    loading: float


class DeviceNeed:
    """The wanted number of devices of one kind. `close` is called once for each slot."""

    def __init__(self, devices: int = 0) -> None:
        """Start without work. ``devices`` is the number of devices in service, and the first wanted number."""
        self.wanted = max(1, devices)
        self.target = TARGET
        self.needed = 0.0  #: need of the last slots, in devices, without damping
        self.loading = False  #: whether the last slots need more devices for loading weights than for executing
        self._slots: deque[Slot] = deque(maxlen=max(WINDOWS))
        self._closed = 0  #: number of slots so far
        self._idle = 0  #: number of slots without work since the last slot with work
        self._devices = devices  #: number of devices in the last slot
        self._short = 0  #: number of slots for which the wanted devices have not sufficed
        #: (slot, need) in ascending order of slots and descending order of needs: the candidates for the largest need
        self._peaks: deque[tuple[int, float]] = deque()

    def close(self, slot: Slot, devices: int) -> None:
        """Add the work of a slot, at whose end ``devices`` are in service."""
        self._slots.append(slot)
        self._closed += 1
        self._idle = self._idle + 1 if slot is IDLE else 0
        self.target += (TARGET - self.target) / RECOVERY
        low = self.needed = 0.0
        self.loading = False
        if self._idle < max(WINDOWS):
            averages = [self._average(count) for count in WINDOWS]
            needs = [self._need(averages[i], self.target, -CHANCE[i], devices) for i in range(len(WINDOWS))]
            self.needed = max(needs)
            low = self._need(averages[1], self.target - GAP, 1.0, devices)
        self._note_peak(max(low, float(devices)) if self._closed <= START else low)
        wanted = min(self.wanted, max(1, ceil(self._peaks[0][1])))
        self.wanted = max(wanted, ceil(self.needed))
        self._adapt(slot, devices)

    @property
    def over(self) -> bool:
        """Whether no work has arrived for so long that one device is wanted."""
        return self._idle > HOLD + max(WINDOWS) and self.wanted == 1

    def recent(self) -> Slot:
        """Return the average of the last slots."""
        count = min(len(self._slots), WINDOWS[1])
        if not count:
            return Slot()
        slots = list(self._slots)[-count:]
        return Slot(*(sum(values) / count for values in zip(*slots, strict=True)))

    def held(self) -> int:
        """Return for how many more slots an earlier peak keeps the number above the present need."""
        if not self._peaks:
            return 0
        for at, need in self._peaks:
            if ceil(need) >= self.wanted:
                return max(0, HOLD - (self._closed - at))
        return 0

    def _adapt(self, slot: Slot, devices: int) -> None:
        """Lower the target if the fleet has all wanted devices, and nevertheless misses requests for a while."""
        settled = devices == self._devices and devices >= self.wanted
        short = settled and slot.missed > TOO_MUCH_MISSED * (slot.urgent + slot.patient)
        self._devices = devices
        self._short = self._short + 1 if short else 0
        if self._short >= SETTLED:
            average = self._average(SETTLED)
            done = (average.work - average.missed) / devices
            self.target = max(MIN_TARGET, min(self.target, REDUCTION * done))
            self._short = 0

    def _average(self, count: int) -> _Average:
        slots = list(self._slots)[-count:]
        urgent = sum(slot.urgent for slot in slots) / count
        patient = sum(slot.patient for slot in slots) / count
        error = sqrt(sum(slot.variance for slot in slots)) / count
        missed = sum(slot.missed for slot in slots) / count
        cold = sum(slot.cold for slot in slots) / count
        loading = sum(slot.loading for slot in slots) / count
        return _Average(urgent, urgent + patient, error, missed, cold, loading)

    def _need(self, average: _Average, target: float, deviations: float, devices: int) -> float:
        """Return the number of devices that the work needs.

        ``deviations`` standard deviations are added to the work.
        """
        error = deviations * average.error
        if average.missed > MISSED_SHARE * average.work:
            executing = (average.work + error) / target
        else:
            executing = max((average.urgent + error) / target, min(average.work + error, float(devices)))
        loading = average.loading / LOAD_TARGET if average.cold > TOO_MUCH_COLD * average.work else 0.0
        self.loading |= loading > executing
        return max(executing, loading, 0.0)

    def _note_peak(self, need: float) -> None:
        peaks = self._peaks
        while peaks and peaks[-1][1] <= need:
            peaks.pop()
        peaks.append((self._closed, need))
        if peaks[0][0] <= self._closed - HOLD:
            peaks.popleft()
