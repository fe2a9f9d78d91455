"""Reads the clock frequency of a device from NVIDIA's management library (NVML), which is part of the driver.

NVML is queried at most ten times per second. If NVML fails, the frequency is reported as unknown, without an error.
This code has not run on a real device yet.
"""

from collections.abc import Callable
from typing import Any, Final

from clockwork.clock import MonotonicClock
from clockwork.units import MILLISECOND, Nanos

INTERVAL: Final[Nanos] = 100 * MILLISECOND
"""A frequency is reused for this time before NVML is queried again. Devices change their clock within tens of
milliseconds.
"""


def make_clock(bus_id: str) -> Callable[[], int]:
    """Return a function that returns the clock frequency in MHz of the device with this PCI bus id.

    The function returns 0 if the frequency is unknown.
    """
    try:
        from cuda.bindings import nvml

        nvml.init_v2()
        handle = nvml.device_get_handle_by_pci_bus_id_v2(bus_id)
    except Exception:  # noqa: BLE001 - the library's errors have no other common base class
        return lambda: 0
    return Clock(lambda: nvml.device_get_clock_info(handle, nvml.ClockType.CLOCK_SM), MonotonicClock.now)


class Clock:
    """Queries the frequency at most once per `INTERVAL`."""

    def __init__(self, ask: Callable[[], Any], now: Callable[[], Nanos]) -> None:
        self._ask = ask
        self._now = now
        self._queried_at: Nanos | None = None
        self._mhz = 0

    def __call__(self) -> int:
        """Return the frequency in MHz, or 0 if it is unknown."""
        now = self._now()
        if self._queried_at is None or now - self._queried_at >= INTERVAL:
            self._queried_at = now
            try:
                self._mhz = int(self._ask())
            except Exception:  # noqa: BLE001 - see `make_clock`
                self._mhz = 0
        return self._mhz
