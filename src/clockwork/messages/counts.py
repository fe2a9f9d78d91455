"""Counts of requests and of the work of devices, for clients, people and monitoring.

All counts start at zero with the controller and never decrease, except for counts of a current state. The garbage
collector does not track these structs (``gc=False``), because there are many and none is part of a cycle.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from clockwork.messages.status import Status
from clockwork.units import MILLISECOND, SECOND, Nanos

REFUSAL_STATUSES: Final = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME)
"""Statuses of requests that are refused before their deadline, because the deadline would be missed or the server is
full."""

LATENCY_BOUNDS: Final[tuple[Nanos, ...]] = (
    *(tenth * MILLISECOND // 10 for tenth in (5, 10, 25, 50)),
    *(step * MILLISECOND for step in (10, 25, 50, 100, 250, 500)),
    *(tenth * SECOND // 10 for tenth in (10, 25, 50, 100)),
)
"""Upper bounds of the buckets in which latencies are counted, 0.5 ms to 10 s. A last bucket counts longer latencies."""


AGREED: Final = "agreed"
"""Outcome of a check: the request has the same outputs in the batch and in a batch of one."""

DIFFERED: Final = "differed"
"""Outcome of a check: the request has other outputs in the batch than in a batch of one."""

SKIPPED: Final = "skipped"
"""Outcome of a check: too many checks waited, or the request could not be executed again or compared."""

CHECK_OUTCOMES: Final = (AGREED, DIFFERED, SKIPPED)
"""All outcomes of a check, in the order in which they are shown."""


class BatchCounts(Struct, frozen=True, array_like=True, gc=False):
    """The number of executed batches of one size, and for each step the sum of their times."""

    batch_size: int
    count: int
    input_ns: Nanos
    exec_ns: Nanos
    output_ns: Nanos


class ModelCounts(Struct, frozen=True, array_like=True, gc=False):
    """The counts of one model. Times are sums in nanoseconds.

    - ``answers``: requests by the name of the status of their response; CANCELLED: requests that their client
      cancelled, or whose client disconnected
    - ``pending``: requests that are pending now
    - ``rows``, ``batches``: executed rows and batches, whatever the outcome of their requests
    - ``succeeded_ns``, ``failed_ns``: time from arrival to response, of requests in time and of all others
    - ``queue_ns``: time from arrival to the start of the batch, of requests in time
    - ``input_ns``, ``exec_ns``, ``output_ns``: time of each step of a batch, counted once per request in time
    - ``latencies``: requests in time, counted by the buckets of `LATENCY_BOUNDS`
    - ``kept_promises``: requests in time that had been admitted with a predicted completion
    - ``late_ns``: time from deadline to response, of late requests
    - ``loads``, ``load_ns``: loads of the model's weights, and their time
    - ``evictions``: evictions of the model's weights
    - ``by_batch_size``: executed batches by their size
    - ``last_success``: when the last request in time was answered, by the controller's clock; 0: none so far
    - ``checks``: checks of batches by their outcome, one of `CHECK_OUTCOMES`
    - ``refusals``: refused requests by the value of their `RefusalReason`
    """

    answers: dict[str, int] = {}
    pending: int = 0
    rows: int = 0
    batches: int = 0
    succeeded_ns: Nanos = 0
    failed_ns: Nanos = 0
    queue_ns: Nanos = 0
    input_ns: Nanos = 0
    exec_ns: Nanos = 0
    output_ns: Nanos = 0
    latencies: tuple[int, ...] = ()
    kept_promises: int = 0
    late_ns: Nanos = 0
    loads: int = 0
    load_ns: Nanos = 0
    evictions: int = 0
    by_batch_size: tuple[BatchCounts, ...] = ()
    last_success: Nanos = 0
    checks: dict[str, int] = {}
    refusals: dict[str, int] = {}


class ModelDemand(Struct, frozen=True, array_like=True, gc=False):
    """Recent requests for a model with one SLO, including refused ones.

    The SLO is in nanoseconds, the rate in requests per second. 0 is an unknown SLO: the server refused these requests
    before it read their SLO.
    """

    slo: Nanos
    rate: float


class DeviceCounts(Struct, frozen=True, array_like=True, gc=False):
    """Work done by one device since its worker connected: counts, and sums of times in nanoseconds."""

    batches: int = 0
    exec_ns: Nanos = 0
    loads: int = 0
    load_ns: Nanos = 0
    evictions: int = 0
    failed: int = 0


def in_time(answers: Mapping[str, int]) -> int:
    """Return the number of requests that succeeded."""
    return answers.get(Status.SUCCESS.name, 0)


def late(answers: Mapping[str, int]) -> int:
    """Return the number of requests that were not answered by their deadline."""
    return answers.get(Status.TIMEOUT.name, 0)


def refused(answers: Mapping[str, int]) -> int:
    """Return the number of requests that were refused before their deadline."""
    return sum(answers.get(status.name, 0) for status in REFUSAL_STATUSES)


def cancelled(answers: Mapping[str, int]) -> int:
    """Return the number of requests that were cancelled."""
    return answers.get(Status.CANCELLED.name, 0)


def failed(answers: Mapping[str, int]) -> int:
    """Return the number of requests with any other outcome."""
    other = in_time(answers) + late(answers) + refused(answers) + cancelled(answers)
    return sum(answers.values()) - other


def known_name(status: int) -> str:
    """Return the name of a status, such as ``TIMEOUT``; ERROR for a number that is not a status.

    A scheduler may answer with any number, but the number of names must stay small.
    """
    try:
        return Status(status).name
    except ValueError:
        return Status.ERROR.name
