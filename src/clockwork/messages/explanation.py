"""The explanation of one request: what was predicted for it, what happened, and what would have been different.

All times are in nanoseconds. Times of events are relative to the arrival of the request.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from clockwork.messages.counts import REFUSAL_STATUSES
from clockwork.messages.status import Status
from clockwork.units import Nanos

IN_TIME: Final = "in_time"
LATE: Final = "late"
REFUSED: Final = "refused"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
BROKEN: Final = "broken"

OUTCOMES: Final = (IN_TIME, LATE, REFUSED, FAILED, CANCELLED, BROKEN)
"""The outcomes by which recent requests can be listed.

``broken`` selects the requests whose promise was broken. Each of them also has another outcome.
"""

_OUTCOMES_BY_STATUS: Final[Mapping[int, str]] = {
    int(Status.SUCCESS): IN_TIME,
    int(Status.TIMEOUT): LATE,
    int(Status.CANCELLED): CANCELLED,
    **{int(status): REFUSED for status in REFUSAL_STATUSES},
}


def outcome_of(status: int) -> str:
    """Return the outcome of a request that was answered with ``status``: one of `OUTCOMES`, but not ``broken``."""
    return _OUTCOMES_BY_STATUS.get(status, FAILED)


GRPC_DEADLINE: Final = "grpc-timeout"
NATIVE_SLO: Final = "slo"
NATIVE_FACTOR: Final = "slo_factor"
MODEL_DEFAULT: Final = "model"
SERVER_DEFAULT: Final = "server"

SLO_SOURCES: Final[Mapping[str, str]] = {
    "timeout": "the request parameter timeout, in microseconds",
    "slo_ms": "the request parameter slo_ms",
    GRPC_DEADLINE: "the deadline of the gRPC call",
    NATIVE_SLO: "the client's argument slo",
    NATIVE_FACTOR: "the client's argument slo_factor",
    MODEL_DEFAULT: "the default SLO of the model",
    SERVER_DEFAULT: "the default SLO of the server",
}
"""Descriptions of where a deadline came from."""

MAX_LISTED: Final = 1000
"""Largest number of requests in one list of recent requests."""


DEFAULT_LISTED: Final = 20
"""Number of requests in a list of recent requests if the client sets no limit."""


class RequestSummary(Struct, frozen=True, array_like=True):
    """One request in a list of recent requests.

    - ``outcome``: one of `OUTCOMES`, but not ``broken``
    - ``reason``: value of the `RefusalReason` if the request was refused
    - ``age``: time since its response
    - ``total``: time from its arrival to its response
    - ``broken``: whether the request was admitted, and the promise was broken
    """

    request_id: str
    model: str
    version: str
    outcome: str
    reason: str
    age: Nanos
    slo: Nanos
    total: Nanos
    broken: bool
    message: str


class ExplainedAction(Struct, frozen=True, array_like=True):
    """An action of a device: an Infer or a load of weights.

    - ``kind``: ``infer`` or ``load``
    - ``rows``: number of rows in the batch; 0 for a load
    - ``sent``: when the controller sent the action
    - ``begin``, ``end``: when the device began and ended the action; None if it did not
    - ``expected_begin``: the begin that was predicted when the action was sent; None if there was no prediction
    - ``expected``: the estimate of the duration; None if there was no estimate
    - ``error``: why the action failed; empty if it did not
    """

    kind: str
    model: str
    rows: int
    sent: Nanos
    begin: Nanos | None
    end: Nanos | None
    expected_begin: Nanos | None
    expected: Nanos | None
    error: str = ""


class Step(Struct, frozen=True, array_like=True):
    """A part of the time of a request, such as ``queue`` or ``exec``."""

    name: str
    begin: Nanos
    end: Nanos


class Comparison(Struct, frozen=True, array_like=True):
    """A planned time and the actual time. ``planned`` is None if the time was not predicted."""

    name: str
    planned: Nanos | None
    actual: Nanos


class Ahead(Struct, frozen=True, array_like=True):
    """The number of batches of one model that a device had to execute."""

    model: str
    batches: int


class ExplainedVerdict(Struct, frozen=True, array_like=True):
    """The parts of a scheduler's decision about a request.

    - ``at``: when the scheduler decided
    - ``device``: the device for which it decided
    - ``sent``, ``planned``: number of batches that the device had been sent and had not executed, and of batches in its
      plan
    - ``ahead``: these batches by model, for a refused request
    - ``joined``: whether the request joined a planned batch
    - ``start``, ``end``: the planned begin and end of the request's batch
    - ``estimate``: the planned duration of the batch
    - ``weights_ready``: when the weights would be loaded; None if they were on the device
    - ``way_there``, ``way_back``: estimated delays of an action on its way to the worker, and of its result
    - ``margin``: time that had to be left between the predicted completion and the deadline
    """

    at: Nanos
    device: str
    sent: int
    planned: int
    ahead: tuple[Ahead, ...]
    joined: bool
    start: Nanos
    end: Nanos
    estimate: Nanos
    weights_ready: Nanos | None
    way_there: Nanos
    way_back: Nanos
    margin: Nanos


OTHER_SLO: Final = "slo"
SPARE_DEVICE: Final = "device"
WARM_WEIGHTS: Final = "weights"
ALONE: Final = "alone"


class WhatIf(Struct, frozen=True, array_like=True):
    """What would have happened to a request under other circumstances.

    - ``change``: ``slo`` for an SLO with which the request would have been admitted, which is ``value``;
      ``device`` for one more idle device that has the weights; ``weights`` if the weights had been on the devices;
      ``alone`` if the devices had had no other work
    - ``admitted``: whether the request would have been admitted
    - ``completion``: the predicted completion; None if the request would have been refused
    """

    change: str
    value: Nanos | None
    admitted: bool
    completion: Nanos | None


class Explanation(Struct, frozen=True, array_like=True):
    """What the server knows about one answered request.

    - ``same_id``: number of earlier requests with the same id that are recorded too
    - ``age``: time since the response
    - ``outcome``, ``reason``, ``broken``: as in `RequestSummary`
    - ``status``, ``message``: the status's name, and the text of the response
    - ``slo_source``: where the deadline came from
    - ``predicted``: the predicted completion; None if there was none
    - ``retry_after``: the retry time in the response; None if there was none
    - ``device``: the device that got the request; empty if none got it
    - ``action``: the Infer that executed the request, or the last one that should have; None if there was none
    - ``load``: the load of the model's weights for which the request waited; None if it did not wait
    - ``mates``: the ids of the other requests in the batch
    - ``ahead``: the actions that the device executed between the arrival and the begin of the request's batch
    - ``steps``: what happened, in order
    - ``compared``: the plan and what happened
    - ``verdict``: the last decision of the scheduler; None if the scheduler does not state it
    - ``what_if``: counterfactuals, which the scheduler computes from the state at the time of its decision
    - ``differed``: the name of the comparison that caused the largest delay; empty if nothing was later than planned
    """

    request_id: str
    model: str
    version: str
    same_id: int
    age: Nanos
    outcome: str
    reason: str
    broken: bool
    status: str
    message: str
    rows: int
    cold_start: bool
    slo: Nanos
    slo_source: str
    total: Nanos
    predicted: Nanos | None
    retry_after: Nanos | None
    device: str = ""
    action: ExplainedAction | None = None
    load: ExplainedAction | None = None
    mates: tuple[str, ...] = ()
    ahead: tuple[ExplainedAction, ...] = ()
    steps: tuple[Step, ...] = ()
    compared: tuple[Comparison, ...] = ()
    differed: str = ""
    verdict: ExplainedVerdict | None = None
    what_if: tuple[WhatIf, ...] = ()
