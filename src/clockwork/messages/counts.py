"""What became of requests, and what devices did for them, counted; for clients, people and monitoring.

All counts begin at zero with the controller and never fall, but those of what is there now. The collector of garbage
need not look at them (``gc=False``): there are many, and none refers to itself.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from clockwork.messages.status import Status
from clockwork.units import MILLISECOND, SECOND, Nanos

REFUSAL_STATUSES: Final = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME)
"""What a request is told that is refused before its deadline, because it would not be met or the server is full."""

LATENCY_BOUNDS: Final[tuple[Nanos, ...]] = (
    *(tenth * MILLISECOND // 10 for tenth in (5, 10, 25, 50)),
    *(step * MILLISECOND for step in (10, 25, 50, 100, 250, 500)),
    *(tenth * SECOND // 10 for tenth in (10, 25, 50, 100)),
)
"""Upper ends of the buckets that latencies are counted in, 0.5 ms to 10 s; what took longer has a bucket of its own."""


AGREED: Final = "agreed"
"""Outcome of a check of a batch: the request alone has the same answer."""

DIFFERED: Final = "differed"
"""Outcome of a check of a batch: the request alone has another answer."""

SKIPPED: Final = "skipped"
"""Outcome of a check of a batch: too many waited, or the request could not be executed alone or compared."""

CHECK_OUTCOMES: Final = (AGREED, DIFFERED, SKIPPED)
"""All outcomes of a check, in the order that they are shown in."""


class BatchCounts(Struct, frozen=True, array_like=True, gc=False):
    """Batches of one size that were executed, and the nanoseconds that all of them took for each step."""

    batch_size: int
    count: int
    input_ns: Nanos
    exec_ns: Nanos
    output_ns: Nanos


class ModelCounts(Struct, frozen=True, array_like=True, gc=False):
    """Of one model.

    ``answers``: requests by the name of the status that they were answered with; CANCELLED are those that nobody waited
    for any more. ``pending``: requests that wait now. ``rows`` and ``batches`` were executed, whatever became of their
    requests. Nanoseconds: ``succeeded_ns`` and ``failed_ns`` from the arrival to the answer of requests in time and of
    all others; ``queue_ns`` of requests in time until their batch began; ``input_ns``, ``exec_ns`` and ``output_ns`` of
    the batches that answered them, once for each request. ``latencies`` counts requests in time by `LATENCY_BOUNDS`.
    ``kept_promises``: requests in time that had been admitted with a predicted completion. ``late_ns``: how long after
    their deadlines late requests were told so. ``load_ns``: what the ``loads`` of its weights took.
    ``last_success``: when the last request in time was answered, by the controller's clock; 0: none yet.
    ``checks``: requests of batches that were to be executed again alone, by `CHECK_OUTCOMES`.
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


class DeviceCounts(Struct, frozen=True, array_like=True, gc=False):
    """Of one device, since its worker came: what it did in service, and for how long."""

    batches: int = 0
    exec_ns: Nanos = 0
    loads: int = 0
    load_ns: Nanos = 0
    evictions: int = 0
    failed: int = 0


def in_time(answers: Mapping[str, int]) -> int:
    """Those that succeeded."""
    return answers.get(Status.SUCCESS.name, 0)


def late(answers: Mapping[str, int]) -> int:
    """Those that were not answered by their deadline."""
    return answers.get(Status.TIMEOUT.name, 0)


def refused(answers: Mapping[str, int]) -> int:
    """Those that were told before their deadline that it would not be met."""
    return sum(answers.get(status.name, 0) for status in REFUSAL_STATUSES)


def cancelled(answers: Mapping[str, int]) -> int:
    """Those that nobody waited for any more."""
    return answers.get(Status.CANCELLED.name, 0)


def failed(answers: Mapping[str, int]) -> int:
    """All others."""
    known = in_time(answers) + late(answers) + refused(answers) + cancelled(answers)
    return sum(answers.values()) - known


def known_name(status: int) -> str:
    """``TIMEOUT``; ERROR, if it is none of ours: names are few, whatever a scheduler says."""
    try:
        return Status(status).name
    except ValueError:
        return Status.ERROR.name
