"""Metrics of each model: Triton's, under its names, where they mean the same, and what only Clockwork knows.

The names are those of Triton Inference Server's user guide, "Metrics"; its durations are in microseconds, ours in
seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from clockwork.controller.tally import Counts
from clockwork.messages import counts
from clockwork.messages.counts import CHECK_OUTCOMES, LATENCY_BOUNDS, REFUSAL_STATUSES, ModelCounts
from clockwork.messages.status import Status
from clockwork.metrics.family import Distribution, Family, Kind, Values, rendered, rendered_histogram
from clockwork.oip.metadata import VERSION
from clockwork.units import MICROSECOND, SECOND

BY_MODEL: Final = ("model",)
BY_VERSION: Final = ("model", "version")

REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
"""Triton's: the deadline, or a limit; the client; the execution; all else, the client's mistakes above all."""

_MISTAKES: Final = frozenset(
    it.name for it in (Status.INVALID_REQUEST, Status.INVALID_INPUT, Status.INVALID_BATCH_SIZE, Status.UNKNOWN_MODEL)
)
_STARTING: Final = frozenset(it.name for it in (Status.INITIALIZING, Status.SHUTTING_DOWN))
_ALWAYS: Final[Mapping[str, int]] = {it.name: 0 for it in (Status.SUCCESS, Status.TIMEOUT, *REFUSAL_STATUSES)}
"""Outcomes that are told before there are any: a rate needs to see the first."""

LATENCY: Final = Family(
    "clockwork_request_duration_seconds",
    "From the arrival to the answer of requests that were answered in time.",
    Kind.HISTOGRAM,
    BY_MODEL,
)


class Row(NamedTuple):
    """One model's counts at one moment."""

    model: str
    cold_starts: int
    broken_promises: int
    counts: ModelCounts
    ready: bool = True


def row(model: str, counted: Counts, ready: bool = True) -> Row:
    """The counts as they are now; ``ready``: a device could serve the model."""
    return Row(model, counted.cold_starts, counted.broken_promises, counted.summary(), ready)


def reason_of(status: str) -> str:
    """Triton's reason for a failure."""
    if status == Status.CANCELLED.name:
        return "CANCELED"
    if status == Status.TIMEOUT.name or status in _REFUSED:
        return "REJECTED"
    return "OTHER" if status in _MISTAKES or status in _STARTING else "BACKEND"


_REFUSED: Final = frozenset(it.name for it in REFUSAL_STATUSES)


def outcome_of(status: str) -> str:
    """What became of a request that was answered with that."""
    if status in _REFUSED:
        return "refused"
    return {"SUCCESS": "in_time", "TIMEOUT": "late", "CANCELLED": "cancelled"}.get(status, "failed")


def _failures(it: Row) -> Values:
    made = dict.fromkeys(REASONS, 0)
    for status, count in it.counts.answers.items():
        if status != Status.SUCCESS.name:
            made[reason_of(status)] += count
    return [((it.model, VERSION, reason), count) for reason, count in made.items()]


def _outcomes(it: Row) -> Values:
    answers = {**_ALWAYS, **it.counts.answers}
    return [((it.model, outcome_of(status), status), count) for status, count in answers.items()]


def _checks(it: Row) -> Values:
    return [((it.model, outcome), it.counts.checks.get(outcome, 0)) for outcome in CHECK_OUTCOMES]


def _triton(name: str, help: str, value: Callable[[Row], float], kind: Kind = Kind.TRITON) -> "_Source":
    return _Source(Family(name, help, kind, BY_VERSION), lambda it: [((it.model, VERSION), value(it))])


def _counter(name: str, help: str, value: Callable[[Row], float]) -> "_Source":
    return _Source(Family(name, help, Kind.COUNTER, BY_MODEL), lambda it: [((it.model,), value(it))])


class _Source(NamedTuple):
    family: Family
    values: Callable[[Row], Values]


SOURCES: Final[Sequence[_Source]] = (
    _triton(
        "nv_inference_request_success",
        "Requests that were answered in time.",
        lambda it: counts.in_time(it.counts.answers),
    ),
    _Source(
        Family(
            "nv_inference_request_failure",
            "Requests that were not answered in time, by Triton's reasons.",
            Kind.TRITON,
            (*BY_VERSION, "reason"),
        ),
        _failures,
    ),
    _triton("nv_inference_count", "Rows that were executed.", lambda it: it.counts.rows),
    _triton("nv_inference_exec_count", "Batches that were executed.", lambda it: it.counts.batches),
    _triton(
        "nv_inference_request_duration_us",
        "From the arrival to the answer of requests in time, in microseconds.",
        lambda it: it.counts.succeeded_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_queue_duration_us",
        "From the arrival of requests in time until their batch began, in microseconds.",
        lambda it: it.counts.queue_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_compute_input_duration_us",
        "Assembling the inputs of the batches of requests in time, once for each request, in microseconds.",
        lambda it: it.counts.input_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_compute_infer_duration_us",
        "Executing the batches of requests in time, once for each request, in microseconds.",
        lambda it: it.counts.exec_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_compute_output_duration_us",
        "Taking out the outputs of the batches of requests in time, once for each request, in microseconds.",
        lambda it: it.counts.output_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_pending_request_count",
        "Requests that wait for their answer.",
        lambda it: it.counts.pending,
        Kind.GAUGE,
    ),
    _Source(
        Family("clockwork_model_ready", "Whether a device is there that can serve the model.", Kind.GAUGE, BY_MODEL),
        lambda it: [((it.model,), it.ready)],
    ),
    _Source(
        Family(
            "clockwork_requests_total",
            "Requests by what became of them, and by the status that they were answered with.",
            Kind.COUNTER,
            ("model", "outcome", "reason"),
        ),
        _outcomes,
    ),
    _counter(
        "clockwork_promises_kept_total",
        "Requests that were admitted with a predicted completion, and answered in time.",
        lambda it: it.counts.kept_promises,
    ),
    _counter(
        "clockwork_promises_broken_total",
        "Requests that were admitted with a predicted completion, and not answered in time by the server's own fault.",
        lambda it: it.broken_promises,
    ),
    _counter(
        "clockwork_lateness_seconds_total",
        "How long after their deadlines late requests were told so.",
        lambda it: it.counts.late_ns / SECOND,
    ),
    _counter(
        "clockwork_cold_starts_total",
        "Requests for weights that no device held when they came.",
        lambda it: it.cold_starts,
    ),
    _counter("clockwork_loads_total", "Loads of the weights to a device.", lambda it: it.counts.loads),
    _counter(
        "clockwork_load_seconds_total",
        "What those loads took.",
        lambda it: it.counts.load_ns / SECOND,
    ),
    _counter("clockwork_evictions_total", "Evictions of the weights from a device.", lambda it: it.counts.evictions),
    _Source(
        Family(
            "clockwork_batch_checks_total",
            "Requests of batches that were executed again alone: whether the answers agreed or differed, or the check "
            "was skipped.",
            Kind.COUNTER,
            ("model", "outcome"),
        ),
        _checks,
    ),
)


def pieces(rows: Sequence[Row], histograms: bool) -> Iterator[bytes]:
    """The text, in pieces of a fraction of a millisecond's work."""
    for family, values in SOURCES:
        yield from rendered(family, map(values, rows))
    if histograms:
        yield from rendered_histogram(LATENCY, LATENCY_BOUNDS, map(_latencies, filter(_has_answered, rows)))


def _has_answered(it: Row) -> bool:
    """Most models of many are idle, and a histogram has many lines."""
    return counts.in_time(it.counts.answers) > 0


def _latencies(it: Row) -> tuple[tuple[str, ...], Distribution]:
    *cumulative, count = accumulate(it.counts.latencies)
    return (it.model,), Distribution(cumulative, count, it.counts.succeeded_ns)
