"""A request that is due."""

from typing import Final

from msgspec import Struct

from clockwork.units import MILLISECOND, Nanos

MIN_RETRY: Final[Nanos] = 1 * MILLISECOND
"""A client whose request failed does not ask again sooner, whatever it was told: no storms."""


class WorkloadRequest(Struct, frozen=True):
    """A request to send.

    ``stream`` is the number of the workload's entry that made it; ``client`` the number of a closed loop's client
    within it. ``intended`` is when it should be sent, in nanoseconds after the workload's start; latency is counted
    from it, whenever it is really sent.
    """

    stream: int
    client: int
    model: str
    intended: Nanos
    slo: Nanos | None
    slo_factor: float | None
    batch_size: int = 1


def comes_back(status: int, retry_after: Nanos | None) -> Nanos | None:
    """How long a client waits that got this answer; None after a success."""
    return None if status == 0 else max(MIN_RETRY, retry_after or 0)
