"""Counts the outcomes of requests, in the same way for a simulation and for a live load test.

Some definitions are from the OSDI'20 artifact. *goodput* counts requests that succeed within their SLO, which the
controller measures from arrival to response. *latency* is the time from the intended send time to the response at the
client, so that there is no coordinated omission. A *cold start* is a request that arrived when no device had its
model's weights.

Other definitions are Clockwork's own. A *refused* request got a refusal before its deadline. An *admitted_missed*
request was admitted and did not succeed in time. *verdict* is the time from the arrival of a refused request to its
refusal.

Memory does not grow with the number of requests, because latencies are stored in a `clockwork.histogram`.
"""

from typing import Any, Final

from msgspec import Struct

from clockwork.histogram import Histogram
from clockwork.messages.requests import InferResponse
from clockwork.messages.status import status_name
from clockwork.units import SECOND, Nanos

MAX_REASONS: Final = 20
"""Largest number of different reasons of broken promises that are counted. Further reasons are dropped."""


class Outcome(Struct, frozen=True):
    """Outcome of one request. ``intended`` and ``answered`` are times in nanoseconds after the workload's start.

    ``total`` is the time from the arrival at the controller to the controller's response. ``predicted`` is the time
    from the arrival to the predicted completion.
    """

    intended: Nanos
    answered: Nanos
    slo: Nanos
    status: int
    total: Nanos
    admitted: bool = False
    predicted: Nanos | None = None
    batch_size: int = 0
    cold_start: bool = False
    message: str = ""

    @property
    def name(self) -> str:
        """Name of the counter for this outcome: in_time, admitted_missed, refused, late or failed."""
        if self.status == 0 and self.total <= self.slo:
            return "in_time"
        if self.admitted:
            return "admitted_missed"
        return "refused" if self.status in (7, 8) else "late" if self.status in (0, 4) else "failed"


def outcome_record(outcome: Outcome, response: InferResponse) -> dict[str, Any]:
    """Return the fields of a request's record that simulations and load tests share; see ``docs/simulator.md``."""
    timing = response.timing
    return {
        "slo": outcome.slo,
        "outcome": outcome.name,
        "status": response.status,
        "status_name": status_name(response.status),
        "message": response.message,
        "admitted": response.admitted,
        "predicted": response.predicted,
        "retry_after": response.retry_after,
        "total": timing.total,
        "queue": timing.queue,
        "exec": timing.exec,
        "batch_size": timing.batch_size,
        "cold_start": timing.cold_start,
    }


def outcome_of(response: InferResponse, *, intended: Nanos, answered: Nanos, slo: Nanos) -> Outcome:
    """Return the outcome of the request that got this response."""
    timing = response.timing
    return Outcome(
        intended,
        answered,
        slo,
        response.status,
        timing.total,
        response.admitted,
        response.predicted,
        timing.batch_size,
        timing.cold_start,
        response.message,
    )


class Counts:
    """Counters and histograms of a group of requests."""

    def __init__(self) -> None:
        """Start at zero."""
        self.sent = self.in_time = self.late = self.refused = self.admitted_missed = self.failed = 0
        self.cold_starts = 0
        self.batch_rows = 0
        self.latency = Histogram()  #: latency of requests in time, from the intended send time
        self.verdict = Histogram()  #: time from the arrival of a refused request to its refusal
        self.reasons: dict[str, int] = {}  #: counts of broken promises by reason

        #: counts of requests that were not in time, by reason, until the first request is in time
        self.setbacks: dict[str, int] = {}
        self.failure = ""  #: error message of the first failed request

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.sent += 1
        if outcome.cold_start:
            self.cold_starts += 1
        if outcome.status == 0 and outcome.total <= outcome.slo:
            self.in_time += 1
            self.batch_rows += outcome.batch_size
            self.latency.add(outcome.answered - outcome.intended)
            return
        if not self.in_time:
            _count_reason(self.setbacks, outcome.message)
        if outcome.admitted:
            self.admitted_missed += 1
            _count_reason(self.reasons, outcome.message)
        elif outcome.status in (7, 8):
            self.refused += 1
            self.verdict.add(outcome.total)
        elif outcome.status in (0, 4):
            self.late += 1
        else:
            self.failed += 1
            self.failure = self.failure or outcome.message

    def summary(self, seconds: float) -> dict[str, Any]:
        """Return the counts for a table or JSON. ``seconds`` is the length of time in which the requests were sent."""
        summary: dict[str, Any] = {
            "offered_rps": round(self.sent / seconds, 3),
            "goodput_rps": round(self.in_time / seconds, 3),
            "in_time_share": round(self.in_time / self.sent, 7) if self.sent else None,
            "sent": self.sent,
            "in_time": self.in_time,
            "admitted_missed": self.admitted_missed,
            "refused": self.refused,
            "late": self.late,
            "failed": self.failed,
            "cold_starts": self.cold_starts,
            "batch_size_mean": round(self.batch_rows / self.in_time, 2) if self.in_time else None,
        }
        for percent in (50, 99, 99.9):
            summary[f"latency_ms_p{percent:g}"] = _ms(self.latency.percentile(percent))
        summary["verdict_ms_p99"] = _ms(self.verdict.percentile(99))
        return summary


class Outcomes:
    """The outcomes of a workload's requests: in total, by stream, by SLO, and over time."""

    def __init__(self, *, warmup: Nanos, duration: Nanos, bucket: Nanos) -> None:
        """Requests that are intended before ``warmup`` appear only in the time series.

        The steps of the time series have the length ``bucket``.
        """
        self._warmup, self._duration, self._bucket = warmup, duration, bucket
        self.total = Counts()
        self.by_stream: dict[int, Counts] = {}
        self.by_slo: dict[Nanos, Counts] = {}
        steps = max(1, -(-duration // bucket))
        self.series: dict[str, list[int]] = {
            name: [0] * steps for name in ("sent", "in_time", "refused", "missed", "cold_starts")
        }

    @property
    def seconds(self) -> float:
        """Duration of the workload without the warm-up, in seconds."""
        return (self._duration - self._warmup) / SECOND

    def add(self, stream: int, outcome: Outcome) -> None:
        """Count the outcome of a request of a stream."""
        good = outcome.status == 0 and outcome.total <= outcome.slo
        step = min(outcome.intended // self._bucket, len(self.series["sent"]) - 1)
        self.series["sent"][step] += 1
        kind = "in_time" if good else "refused" if outcome.status in (7, 8) and not outcome.admitted else "missed"
        self.series[kind][step] += 1
        if outcome.cold_start:
            self.series["cold_starts"][step] += 1
        if outcome.intended < self._warmup:
            return
        self.total.add(outcome)
        _of(self.by_stream, stream).add(outcome)
        if outcome.slo in self.by_slo or len(self.by_slo) < 1000:
            _of(self.by_slo, outcome.slo).add(outcome)


def _of(table: dict[int, Counts], key: int) -> Counts:
    counts = table.get(key)
    if counts is None:
        counts = table[key] = Counts()
    return counts


def _ms(value: Nanos | None) -> float | None:
    return None if value is None else round(value / 1e6, 3)


def _count_reason(reasons: dict[str, int], message: str) -> None:
    reason = _without_numbers(message)
    if reason in reasons or len(reasons) < MAX_REASONS:
        reasons[reason] = reasons.get(reason, 0) + 1


def _without_numbers(message: str) -> str:
    """Replace the digits in a reason, so that reasons that differ only in their numbers count as one reason."""
    return "".join("#" if letter.isdigit() else letter for letter in message)[:200]
