"""A request that is due."""

from msgspec import Struct

from clockwork.units import Nanos


class Outgoing(Struct, frozen=True):
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
