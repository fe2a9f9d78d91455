"""The frequency at which a device computes, from NVIDIA's management library (NVML, which the driver brings).

Rules of the file: it is asked at most ten times a second, and what is wrong with it costs no more than the frequency.
Not yet run on a real device.
"""

from collections.abc import Callable
from typing import Any, Final

from clockwork.clock import MonotonicClock
from clockwork.units import MILLISECOND, Nanos

INTERVAL: Final[Nanos] = 100 * MILLISECOND
"""How long a frequency is taken for the present one: devices change theirs within some tens of milliseconds."""


def make_clock(bus_id: str) -> Callable[[], int]:
    """Gives the frequency in MHz of the device with this PCI bus id, or 0."""
    try:
        from cuda.bindings import nvml

        nvml.init_v2()
        handle = nvml.device_get_handle_by_pci_bus_id_v2(bus_id)
    except Exception:  # noqa: BLE001 - the library's errors have no common base but this
        return lambda: 0
    return Clock(lambda: nvml.device_get_clock_info(handle, nvml.ClockType.CLOCK_SM), MonotonicClock.now)


class Clock:
    """Asks for the frequency, now and then."""

    def __init__(self, ask: Callable[[], Any], now: Callable[[], Nanos]) -> None:
        self._ask = ask
        self._now = now
        self._asked: Nanos | None = None
        self._mhz = 0

    def __call__(self) -> int:
        """In MHz; 0 if it is not told."""
        now = self._now()
        if self._asked is None or now - self._asked >= INTERVAL:
            self._asked = now
            try:
                self._mhz = int(self._ask())
            except Exception:  # noqa: BLE001 - see `make_clock`
                self._mhz = 0
        return self._mhz
