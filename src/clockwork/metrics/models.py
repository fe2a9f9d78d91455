"""The metrics of each model. Some of these metrics also exist in Triton, and the rest only in Clockwork.

Triton's metrics have the same names as in the chapter "Metrics" of Triton's user guide. Durations in Triton's metrics
are in microseconds. Durations in Clockwork's own metrics are in seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from clockwork.controller.tally import Counts
from clockwork.messages import counts
from clockwork.messages.counts import CHECK_OUTCOMES, LATENCY_BOUNDS, REFUSAL_STATUSES, ModelCounts
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import DEFAULT_VERSION
from clockwork.messages.status import Status
from clockwork.metrics.family import Distribution, Family, Kind, Piece, Values, rendered, rendered_histogram
from clockwork.units import MICROSECOND, SECOND

BY_VERSION: Final = ("model", "version")

REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
"""Triton's reasons for failures.

In this order, the reasons mean: a deadline or a limit, a cancellation, a failed execution, and everything else. Most
failures with the reason OTHER are wrong requests.
"""

_WRONG_REQUEST: Final = frozenset(
    status.name
    for status in (Status.INVALID_REQUEST, Status.INVALID_INPUT, Status.INVALID_BATCH_SIZE, Status.UNKNOWN_MODEL)
)
_NOT_SERVING: Final = frozenset(status.name for status in (Status.INITIALIZING, Status.SHUTTING_DOWN))
_ALWAYS: Final[Mapping[str, int]] = {status.name: 0 for status in (Status.SUCCESS, Status.TIMEOUT, *REFUSAL_STATUSES)}
"""Statuses that the metrics contain even if their count is 0.

If a time series appeared only with its first request, Prometheus' function rate() would not count this request.
"""

LATENCY: Final = Family(
    "clockwork_request_duration_seconds",
    "Time from arrival to response, for requests answered in time.",
    Kind.HISTOGRAM,
    BY_VERSION,
)


class Row(NamedTuple):
    """The counts of one version of a model at one time."""

    model: str
    cold_starts: int
    broken_promises: int
    counts: ModelCounts
    ready: bool = True
    version: str = DEFAULT_VERSION


def row(model: str, counted: Counts, ready: bool = True, version: str = DEFAULT_VERSION) -> Row:
    """Return a model's current counts. ``ready`` means that a device can serve the model now."""
    return Row(model, counted.cold_starts, counted.broken_promises, counted.summary(), ready, version)


def reason_of(status: str) -> str:
    """Return Triton's reason for a status other than success."""
    if status == Status.CANCELLED.name:
        return "CANCELED"
    if status == Status.TIMEOUT.name or status in _REFUSED:
        return "REJECTED"
    return "OTHER" if status in _WRONG_REQUEST or status in _NOT_SERVING else "BACKEND"


_REFUSED: Final = frozenset(status.name for status in REFUSAL_STATUSES)


def outcome_of(status: str) -> str:
    """Return the value of the label ``outcome`` for requests that ended with ``status``."""
    if status in _REFUSED:
        return "refused"
    return {"SUCCESS": "in_time", "TIMEOUT": "late", "CANCELLED": "cancelled"}.get(status, "failed")


def _failures(row: Row) -> Values:
    by_reason = dict.fromkeys(REASONS, 0)
    for status, count in row.counts.answers.items():
        if status != Status.SUCCESS.name:
            by_reason[reason_of(status)] += count
    return [((row.model, row.version, reason), count) for reason, count in by_reason.items()]


def _outcomes(row: Row) -> Values:
    answers = {**_ALWAYS, **row.counts.answers}
    return [((row.model, row.version, outcome_of(status), status), count) for status, count in answers.items()]


def _refusals(row: Row) -> Values:
    """Return the number of refusals for each reason.

    If the model has received requests, the result also contains reasons with a count of 0; see `_ALWAYS`.
    """
    if not row.counts.answers and not row.counts.pending:
        return []
    return [
        ((row.model, row.version, reason.value), row.counts.refusals.get(reason.value, 0)) for reason in RefusalReason
    ]


def _checks(row: Row) -> Values:
    return [((row.model, row.version, outcome), row.counts.checks.get(outcome, 0)) for outcome in CHECK_OUTCOMES]


def _triton(name: str, help: str, value: Callable[[Row], float], kind: Kind = Kind.TRITON) -> "_Source":
    return _Source(Family(name, help, kind, BY_VERSION), lambda row: [((row.model, row.version), value(row))])


def _counter(name: str, help: str, value: Callable[[Row], float]) -> "_Source":
    return _Source(Family(name, help, Kind.COUNTER, BY_VERSION), lambda row: [((row.model, row.version), value(row))])


class _Source(NamedTuple):
    family: Family
    values: Callable[[Row], Values]


SOURCES: Final[Sequence[_Source]] = (
    _triton(
        "nv_inference_request_success",
        "Requests answered in time.",
        lambda row: counts.in_time(row.counts.answers),
    ),
    _Source(
        Family(
            "nv_inference_request_failure",
            "Requests not answered in time, by Triton's reasons.",
            Kind.TRITON,
            (*BY_VERSION, "reason"),
        ),
        _failures,
    ),
    _triton("nv_inference_count", "Executed rows.", lambda row: row.counts.rows),
    _triton("nv_inference_exec_count", "Executed batches.", lambda row: row.counts.batches),
    _triton(
        "nv_inference_request_duration_us",
        "Time from arrival to response in microseconds, for requests answered in time.",
        lambda row: row.counts.succeeded_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_queue_duration_us",
        "Time in microseconds from a request's arrival to the start of its batch, for requests answered in time.",
        lambda row: row.counts.queue_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_compute_input_duration_us",
        "Time in microseconds to assemble the inputs of a batch. It is added once for each request answered in time.",
        lambda row: row.counts.input_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_compute_infer_duration_us",
        "Time in microseconds to execute a batch. It is added once for each request answered in time.",
        lambda row: row.counts.exec_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_compute_output_duration_us",
        "Time in microseconds to read the outputs of a batch. It is added once for each request answered in time.",
        lambda row: row.counts.output_ns // MICROSECOND,
    ),
    _triton(
        "nv_inference_pending_request_count",
        "Requests that wait for their response.",
        lambda row: row.counts.pending,
        Kind.GAUGE,
    ),
    _Source(
        Family("clockwork_model_ready", "Whether a device can serve the model now.", Kind.GAUGE, BY_VERSION),
        lambda row: [((row.model, row.version), row.ready)],
    ),
    _Source(
        Family(
            "clockwork_requests_total",
            "Requests by outcome and by the name of their status.",
            Kind.COUNTER,
            (*BY_VERSION, "outcome", "reason"),
        ),
        _outcomes,
    ),
    _Source(
        Family(
            "clockwork_refusals_total",
            "Requests refused before their deadline, by reason; only for models that have received requests.",
            Kind.COUNTER,
            (*BY_VERSION, "reason"),
        ),
        _refusals,
    ),
    _counter(
        "clockwork_promises_kept_total",
        "Requests admitted with a predicted completion and answered in time.",
        lambda row: row.counts.kept_promises,
    ),
    _counter(
        "clockwork_promises_broken_total",
        "Requests admitted with a predicted completion but not answered in time, through the server's fault.",
        lambda row: row.broken_promises,
    ),
    _counter(
        "clockwork_lateness_seconds_total",
        "Time from the deadline to the response of late requests.",
        lambda row: row.counts.late_ns / SECOND,
    ),
    _counter(
        "clockwork_cold_starts_total",
        "Requests that arrived when no device had the model's weights.",
        lambda row: row.cold_starts,
    ),
    _counter("clockwork_loads_total", "Loads of the model's weights to a device.", lambda row: row.counts.loads),
    _counter(
        "clockwork_load_seconds_total",
        "Time to load the model's weights to devices.",
        lambda row: row.counts.load_ns / SECOND,
    ),
    _counter("clockwork_evictions_total", "Evictions of the model's weights.", lambda row: row.counts.evictions),
    _Source(
        Family(
            "clockwork_batch_checks_total",
            "Checks of batches by outcome: the outputs agreed, the outputs differed, or the check was skipped.",
            Kind.COUNTER,
            (*BY_VERSION, "outcome"),
        ),
        _checks,
    ),
)


def pieces(rows: Sequence[Row], histograms: bool) -> Iterator[Piece]:
    """Yield the metrics of all models in pieces. Each piece takes a fraction of a millisecond."""
    for family, values in SOURCES:
        yield from rendered(family, map(values, rows))
    if histograms:
        yield from rendered_histogram(LATENCY, LATENCY_BOUNDS, map(_latencies, filter(_has_answered, rows)))


def _has_answered(row: Row) -> bool:
    """Return whether a model has answered requests. Histograms have many lines, so only such models get one."""
    return counts.in_time(row.counts.answers) > 0


def _latencies(row: Row) -> tuple[tuple[str, ...], Distribution]:
    *cumulative, count = accumulate(row.counts.latencies)
    return (row.model, row.version), Distribution(cumulative, count, row.counts.succeeded_ns)
