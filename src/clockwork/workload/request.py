"""A request of a workload."""

from typing import Final

from msgspec import Struct

from clockwork.units import MILLISECOND, SECOND, Nanos

MIN_RETRY: Final[Nanos] = 1 * MILLISECOND
"""Shortest wait of a client after a failed request, to prevent retry storms."""


class WorkloadRequest(Struct, frozen=True):
    """A request that a workload sends.

    ``stream`` is the number of the workload's entry, ``client`` the number of a closed loop's client within the entry.
    ``intended`` is the send time in nanoseconds after the workload's start; latency counts from it even if the request
    is sent later.
    """

    stream: int
    client: int
    model: str
    intended: Nanos
    slo: Nanos | None
    slo_factor: float | None
    batch_size: int = 1


BACK_OFF: Final[Nanos] = 0
"""Stands for a failure without a retry time: the client chooses how long it waits (`back_off`)."""

FIRST_BACK_OFF: Final[Nanos] = 10 * MILLISECOND
MAX_BACK_OFF: Final[Nanos] = 1 * SECOND


def comes_back(status: int, retry_after: Nanos | None) -> Nanos | None:
    """Return how long a client waits after this response: None after a success, `BACK_OFF` if it must choose itself."""
    if status == 0:
        return None
    return BACK_OFF if retry_after is None else max(MIN_RETRY, retry_after)


def back_off(failures: int, draw: float) -> Nanos:
    """Return how long a client without a retry time waits after ``failures`` failures in a row.

    The wait doubles with each failure up to a second. ``draw``, a random number from 0 to 1, spreads it over its upper
    half, so that clients do not come back together.
    """
    longest = min(MAX_BACK_OFF, FIRST_BACK_OFF << min(failures - 1, 10))
    return round(longest * (1 + draw) / 2)
