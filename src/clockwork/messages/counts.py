"""Counts of requests and of the work that devices have done. The server's status and the metrics contain these counts.

All counts are zero when the controller starts. Counts never decrease, except counts of the present state, such as
pending requests. The garbage collector does not track these structs (``gc=False``), because there are many of them and
they form no cycles.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from clockwork.messages.status import Status
from clockwork.units import MILLISECOND, SECOND, Nanos

REFUSAL_STATUSES: Final = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME)
"""Statuses of requests that are refused before their deadline.

Such a request would miss its deadline, or the server is full.
"""

LATENCY_BOUNDS: Final[tuple[Nanos, ...]] = (
    *(tenth * MILLISECOND // 10 for tenth in (5, 10, 25, 50)),
    *(step * MILLISECOND for step in (10, 25, 50, 100, 250, 500)),
    *(tenth * SECOND // 10 for tenth in (10, 25, 50, 100)),
)
"""Upper bounds of the buckets of latencies, from 0.5 ms to 10 s. An additional bucket counts longer latencies."""


AGREED: Final = "agreed"
"""Outcome of a check: the request has the same outputs in its batch and in a batch of one."""

DIFFERED: Final = "differed"
"""Outcome of a check: the outputs of the request in its batch differ from its outputs in a batch of one."""

SKIPPED: Final = "skipped"
"""Outcome of a check: too many checks waited, or the outputs could not be compared."""

CHECK_OUTCOMES: Final = (AGREED, DIFFERED, SKIPPED)
"""All outcomes of a check, in the order in which they are shown."""


class BatchCounts(Struct, frozen=True, array_like=True, gc=False):
    """The number of executed batches of one size, and the total time of each of their steps."""

    batch_size: int
    count: int
    input_ns: Nanos
    exec_ns: Nanos
    output_ns: Nanos


class ModelCounts(Struct, frozen=True, array_like=True, gc=False):
    """The counts of one model. Times are sums in nanoseconds. A request is in time if it is answered by its deadline.

    - ``answers``: number of requests for each status, by the status's name. CANCELLED counts requests that the client
      cancelled, and requests whose client disconnected.
    - ``pending``: number of pending requests
    - ``rows``, ``batches``: numbers of executed rows and batches. A batch counts even if its requests fail.
    - ``succeeded_ns``: time from arrival to response, for requests in time
    - ``failed_ns``: time from arrival to response, for all other requests
    - ``queue_ns``: time from arrival to the start of the batch, for requests in time
    - ``input_ns``, ``exec_ns``, ``output_ns``: time of each step of a batch, added once for each request of the batch
      that is answered in time
    - ``latencies``: number of requests in time for each bucket of `LATENCY_BOUNDS`
    - ``kept_promises``: number of requests in time that were admitted with a predicted completion
    - ``late_ns``: time from deadline to response, for late requests
    - ``loads``, ``load_ns``: number of loads of the model's weights, and the total time of these loads
    - ``evictions``: number of evictions of the model's weights
    - ``by_batch_size``: counts of the executed batches for each batch size
    - ``last_success``: time on the controller's clock at which the last request in time was answered; 0 if there was no
      such request
    - ``checks``: number of checks of batches for each outcome in `CHECK_OUTCOMES`
    - ``refusals``: number of refused requests for each `RefusalReason`, by its value
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


class RecentCounts(Struct, frozen=True, array_like=True, gc=False):
    """The requests of one model that were answered in a recent window of time. Times are in nanoseconds.

    - ``window``: length of the window
    - ``per_second``: number of answered requests per second, whatever the outcomes are
    - ``in_time``, ``late``, ``refused``, ``failed``, ``cancelled``: number of requests for each outcome
    - ``broken_promises``: number of requests that were admitted and did not succeed in time
    - ``p50``, ``p99``: percentiles of the time from arrival to response, for requests in time and late requests; 0 if
      there were none. The values are at most 10 per cent too large.
    - ``min_slo``, ``max_slo``: the shortest and the longest SLO of the requests; 0 if no SLO is known
    """

    window: Nanos = 0
    per_second: float = 0.0
    in_time: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    broken_promises: int = 0
    p50: Nanos = 0
    p99: Nanos = 0
    min_slo: Nanos = 0
    max_slo: Nanos = 0


class ModelDemand(Struct, frozen=True, array_like=True, gc=False):
    """The rate of recent requests for one model with one SLO, including refused requests.

    ``slo`` is in nanoseconds, and ``rate`` is in requests per second. An SLO of 0 means that it is unknown, because the
    server refused the requests before it read their SLO.
    """

    slo: Nanos
    rate: float


class DeviceCounts(Struct, frozen=True, array_like=True, gc=False):
    """The work that one device has done since its worker connected. Times are sums in nanoseconds."""

    batches: int = 0
    exec_ns: Nanos = 0
    loads: int = 0
    load_ns: Nanos = 0
    evictions: int = 0
    failed: int = 0


def in_time(answers: Mapping[str, int]) -> int:
    """Return the number of requests that were answered in time."""
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
    """Return the number of requests that failed for a reason other than their deadline, a refusal or a cancellation."""
    other = in_time(answers) + late(answers) + refused(answers) + cancelled(answers)
    return sum(answers.values()) - other


def known_name(status: int) -> str:
    """Return the name of a status, such as ``TIMEOUT``, or ERROR if the number is not a status.

    A scheduler may answer with any number, but each name becomes the value of a metric's label. So the number of
    different names must be limited.
    """
    try:
        return Status(status).name
    except ValueError:
        return Status.ERROR.name
