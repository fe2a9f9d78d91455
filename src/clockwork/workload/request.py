"""Defines a request of a workload, and how long a client waits after a failure before it sends again."""

from typing import Final

from msgspec import Struct

from clockwork.units import MILLISECOND, SECOND, Nanos

MIN_RETRY: Final[Nanos] = 1 * MILLISECOND
"""Shortest wait of a client after a failed request, which prevents a flood of retries."""


class WorkloadRequest(Struct, frozen=True):
    """A request that a workload sends.

    ``stream`` is the number of the stream within the workload. ``client`` is the number of a closed loop's client
    within the stream. ``intended`` is the send time in nanoseconds after the workload's start. The latency counts from
    this time, even if the request is sent later.
    """

    stream: int
    client: int
    model: str
    intended: Nanos
    slo: Nanos | None
    slo_factor: float | None
    batch_size: int = 1


BACK_OFF: Final[Nanos] = 0
"""Result of `comes_back` for a failure without a retry time. The client then uses `back_off` to choose its wait."""

FIRST_BACK_OFF: Final[Nanos] = 10 * MILLISECOND
MAX_BACK_OFF: Final[Nanos] = 1 * SECOND


def comes_back(status: int, retry_after: Nanos | None) -> Nanos | None:
    """Return how long a client waits after a failure before it retries, or None after a success.

    `BACK_OFF` means that the client must choose the time itself.
    """
    if status == 0:
        return None
    return BACK_OFF if retry_after is None else max(MIN_RETRY, retry_after)


def back_off(failures: int, draw: float) -> Nanos:
    """Return how long a client without a retry time waits after ``failures`` failures in a row.

    The wait doubles with each failure, up to a second. ``draw`` is a random number from 0 to 1. ``draw`` sets the wait
    between half and all of this time, so that clients do not all retry at the same moment.
    """
    longest = min(MAX_BACK_OFF, FIRST_BACK_OFF << min(failures - 1, 10))
    return round(longest * (1 + draw) / 2)
