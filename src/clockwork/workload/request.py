"""A request of a workload."""

from typing import Final

from msgspec import Struct

from clockwork.units import MILLISECOND, Nanos

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


def comes_back(status: int, retry_after: Nanos | None) -> Nanos | None:
    """Return how long a client waits after this response; None after a success."""
    return None if status == 0 else max(MIN_RETRY, retry_after or 0)
