"""Counts each model's requests and their outcomes, for all protocols.

Counting takes two microseconds per request, and limited memory per model. Only served models are counted by name. So
clients cannot use up memory with invented names.
"""

from bisect import bisect_left
from collections import defaultdict
from typing import TypeVar

from clockwork.controller.demand import DemandMeter
from clockwork.controller.promises import Promise, outcome
from clockwork.controller.recent import Recent
from clockwork.controller.scaling import Scaling
from clockwork.messages import counts
from clockwork.messages.actions import DeviceAction, Infer
from clockwork.messages.counts import LATENCY_BOUNDS, REFUSAL_STATUSES, BatchCounts, ModelCounts
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import EvictWeightsResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest
from clockwork.units import Nanos


class Counts:
    """Counters of one model. The docstrings of `ModelStatus` and `ModelCounts` explain the counters."""

    __slots__ = (
        "answers",
        "batches",
        "broken_promises",
        "by_batch_size",
        "checks",
        "cold_starts",
        "evictions",
        "exec_ns",
        "failed_ns",
        "input_ns",
        "kept_promises",
        "last_success",
        "late_ns",
        "latencies",
        "load_ns",
        "loads",
        "output_ns",
        "pending",
        "queue_ns",
        "recent",
        "refusals",
        "rows",
        "succeeded_ns",
    )

    def __init__(self) -> None:
        """Start with all counters at zero."""
        self.reset()
        self.recent = Recent()

    def reset(self) -> None:
        """Set all counters to zero."""
        self.answers: dict[int, int] = {}  #: number of responses, by status

        #: by batch size: number of requests, and their nanoseconds of input, execution and output
        self.by_batch_size: dict[int, list[int]] = {}
        self.latencies = [0] * (len(LATENCY_BOUNDS) + 1)
        self.checks: dict[str, int] = {}  #: number of checks of batches, by outcome
        self.refusals: dict[str, int] = {}  #: number of refused requests, by the value of the reason
        self.rows = self.batches = 0
        self.succeeded_ns = self.failed_ns = self.queue_ns = 0
        self.input_ns = self.exec_ns = self.output_ns = 0
        self.pending = self.cold_starts = 0
        self.kept_promises = self.broken_promises = self.late_ns = 0
        self.loads = self.load_ns = self.evictions = 0
        self.last_success: Nanos = 0

    def finished(self, request: PendingRequest, status: int, total: Nanos, reason: RefusalReason) -> Promise:
        """Count a pending request that is answered ``total`` after its arrival. Return the outcome of its promise."""
        now = request.arrival + total
        promise = outcome(now, request.promised, status)
        broken = promise is Promise.BROKEN
        self.answered(now, status, total, request.deadline - request.arrival, reason=reason, broken=broken)
        self.cold_starts += request.cold_start
        self.kept_promises += promise is Promise.KEPT
        self.broken_promises += broken
        return promise

    def answered(
        self,
        now: Nanos,
        status: int,
        total: Nanos,
        slo: Nanos = 0,
        count: int = 1,
        reason: RefusalReason = RefusalReason.OTHER,
        broken: bool = False,
    ) -> None:
        """Count ``count`` requests that are answered with ``status``.

        ``total`` is the sum of their times from arrival to response. An ``slo`` of 0 means that the SLO is unknown.
        ``reason`` is used only if ``status`` means a refusal. ``broken`` means that a promise is broken.
        """
        self.recent.answered(now, status, total, slo, count, broken, reason)
        self.answers[status] = self.answers.get(status, 0) + count
        if status == Status.SUCCESS:
            self.succeeded_ns += total
            self.latencies[bisect_left(LATENCY_BOUNDS, total)] += 1
        else:
            self.failed_ns += total
            if status in REFUSAL_STATUSES:
                self.refusals[reason.value] = self.refusals.get(reason.value, 0) + count

    def delivered(self, now: Nanos, timing: RequestTiming, result: InferResult) -> None:
        """Count a request that was executed in a batch and answered in time."""
        self.last_success = now
        self.queue_ns += timing.queue
        self.input_ns += result.copy_input.duration
        self.exec_ns += timing.exec
        self.output_ns += result.copy_output.duration

    def acted(self, action: DeviceAction, result: Result) -> None:
        """Count an action that a device executed for the model. Failed actions are not counted."""
        if isinstance(result, InferResult) and isinstance(action, Infer):
            rows = action.batch_size
            self.rows += rows
            self.batches += 1
            sums = self.by_batch_size.get(rows)
            if sums is None:
                sums = self.by_batch_size[rows] = [0, 0, 0, 0]
            sums[0] += 1
            sums[1] += result.copy_input.duration
            sums[2] += result.exec.duration
            sums[3] += result.copy_output.duration
        elif isinstance(result, LoadWeightsResult):
            self.loads += 1
            self.load_ns += result.timing.duration
        elif isinstance(result, EvictWeightsResult):
            self.evictions += 1

    def checked(self, outcome: str) -> None:
        """Count the outcome of a check of a batch."""
        self.checks[outcome] = self.checks.get(outcome, 0) + 1

    def take(self, other: "Counts") -> None:
        """Move the counts of another load of the same version into these counters.

        Pending requests stay with the other load.
        """
        _move(self.answers, other.answers)
        _move(self.checks, other.checks)
        _move(self.refusals, other.refusals)
        for size, sums in other.by_batch_size.items():
            before = self.by_batch_size.get(size, [0, 0, 0, 0])
            self.by_batch_size[size] = [mine + theirs for mine, theirs in zip(before, sums, strict=True)]
        self.latencies = [mine + theirs for mine, theirs in zip(self.latencies, other.latencies, strict=True)]
        self.rows += other.rows
        self.batches += other.batches
        self.succeeded_ns += other.succeeded_ns
        self.failed_ns += other.failed_ns
        self.queue_ns += other.queue_ns
        self.input_ns += other.input_ns
        self.exec_ns += other.exec_ns
        self.output_ns += other.output_ns
        self.cold_starts += other.cold_starts
        self.kept_promises += other.kept_promises
        self.broken_promises += other.broken_promises
        self.late_ns += other.late_ns
        self.loads += other.loads
        self.load_ns += other.load_ns
        self.evictions += other.evictions
        self.last_success = max(self.last_success, other.last_success)
        pending = other.pending
        other.reset()
        other.pending = pending

    def named(self) -> dict[str, int]:
        """Return the number of answered requests by the name of their status."""
        return by_name(self.answers)

    def summary(self) -> ModelCounts:
        """Return the counters as a message."""
        sizes = sorted(self.by_batch_size.items())
        return ModelCounts(
            answers=self.named(),
            pending=self.pending,
            rows=self.rows,
            batches=self.batches,
            succeeded_ns=self.succeeded_ns,
            failed_ns=self.failed_ns,
            queue_ns=self.queue_ns,
            input_ns=self.input_ns,
            exec_ns=self.exec_ns,
            output_ns=self.output_ns,
            latencies=tuple(self.latencies),
            kept_promises=self.kept_promises,
            late_ns=self.late_ns,
            loads=self.loads,
            load_ns=self.load_ns,
            evictions=self.evictions,
            by_batch_size=tuple(BatchCounts(size, *sums) for size, sums in sizes),
            last_success=self.last_success,
            checks=dict(self.checks),
            refusals=dict(self.refusals),
        )


class Tally:
    """The counters of all models, and counts of the requests that were answered before their model was looked up."""

    def __init__(self, state: ClockworkState) -> None:
        """Start with no counts. ``state`` contains the devices in service."""
        self._counts: defaultdict[str, Counts] = defaultdict(Counts)
        self._without_model: dict[int, int] = {}
        self._successors: dict[str, str] = {}  #: replaced load -> load that serves the same version
        self.demand = DemandMeter()
        self.scaling = Scaling(state)

    def of(self, model: str) -> Counts:
        """Return the counters of a served model. The caller may read and increase the counters."""
        return self._counts[model]

    def arrived(self, now: Nanos, model: ModelState, rows: int, slo: Nanos) -> None:
        """Count a request for a model at its arrival."""
        self.demand.add(model.name, slo, now)
        self.scaling.arrived(now, model, rows, slo)

    def finished(self, request: PendingRequest, status: int, total: Nanos, reason: RefusalReason) -> Promise:
        """Count a pending request that is answered ``total`` after its arrival. Return the outcome of its promise."""
        self.scaling.answered(request, status, reason)
        return self.of(request.model.name).finished(request, status, total, reason)

    def excluded(self, model: str, rows: int, slo: Nanos) -> Counts:
        """Do not count a request's rows as work of devices, because the request's deadline had passed.

        Return the counters.
        """
        self.scaling.excluded(model, rows, slo)
        return self.of(model)

    def acted(
        self, now: Nanos, gpu: GPUState, model: ModelState, action: DeviceAction, result: Result, occupied: Nanos
    ) -> None:
        """Count an action that a device executed. ``occupied`` is the time for which the action occupied the device."""
        self.of(model.name).acted(action, result)
        if isinstance(result, InferResult) and isinstance(action, Infer):
            self.scaling.executed(gpu.kind, model, action.batch_size, occupied)
        elif isinstance(result, LoadWeightsResult):
            self.scaling.loaded(now, gpu.kind, model, occupied)

    def shed(self, now: Nanos, model: ModelState | None, count: int) -> None:
        """Count requests that the host itself has refused. ``model`` is None if the model is unknown."""
        status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
        if model is None:
            self.count_without_model(status, count)
            return
        self.of(model.name).answered(now, status, 0, count=count, reason=RefusalReason.SERVER_OVERLOADED)
        self.demand.add(model.name, 0, now, count)

    def succeed(self, model: str, successor: str) -> None:
        """Continue the counters of a model with the load that replaces it. So counters of a version never decrease."""
        self.of(successor).take(self.of(model))
        self._successors[model] = successor

    def forget(self, model: str) -> None:
        """Forget a model that was removed. The load that replaced the model takes the counts since `succeed`."""
        counts = self._counts.pop(model, None)
        successor = self._successors.pop(model, "")
        for other, following in list(self._successors.items()):
            if following == model and successor:
                self._successors[other] = successor
            elif following == model:
                del self._successors[other]
        if counts is not None and successor:
            self.of(successor).take(counts)
        self.demand.forget(model)
        self.scaling.forget(model)

    def count_without_model(self, status: int, count: int = 1) -> None:
        """Count requests that were answered before their model was looked up."""
        self._without_model[status] = self._without_model.get(status, 0) + count

    def without_model(self) -> dict[str, int]:
        """Return the number of requests that `count_without_model` has counted, by the name of their status."""
        return by_name(self._without_model)


T = TypeVar("T", int, str)


def _move(mine: dict[T, int], theirs: dict[T, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count


def by_name(answers: dict[int, int]) -> dict[str, int]:
    """Convert counts by status number to counts by status name, in order of their first appearance."""
    named: dict[str, int] = {}
    for status, count in answers.items():
        name = counts.known_name(status)
        named[name] = named.get(name, 0) + count
    return named
