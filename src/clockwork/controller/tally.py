"""What became of each model's requests, counted once for all protocols.

Rules of the file: counting costs a microsecond and its memory is flat. Only names of models that are served get in, so
it does not grow with what clients make up.
"""

from bisect import bisect_left
from collections import defaultdict

from clockwork.messages import counts
from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.counts import LATENCY_BOUNDS, BatchCounts, ModelCounts
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import EvictWeightsResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status
from clockwork.units import Nanos


class Counts:
    """One model's counters; see `ModelStatus` and `ModelCounts` for what they mean."""

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
        "rows",
        "succeeded_ns",
    )

    def __init__(self) -> None:
        """All zero."""
        self.answers: dict[int, int] = {}  #: by status
        self.by_batch_size: dict[int, list[int]] = {}  #: count, and nanoseconds of input, execution and output
        self.latencies = [0] * (len(LATENCY_BOUNDS) + 1)
        self.checks: dict[str, int] = {}  #: of batches, by outcome
        self.rows = self.batches = 0
        self.succeeded_ns = self.failed_ns = self.queue_ns = 0
        self.input_ns = self.exec_ns = self.output_ns = 0
        self.pending = self.cold_starts = 0
        self.kept_promises = self.broken_promises = self.late_ns = 0
        self.loads = self.load_ns = self.evictions = 0
        self.last_success: Nanos = 0

    def answered(self, status: int, total: Nanos, count: int = 1) -> None:
        """Count ``count`` requests as answered, ``total`` nanoseconds in all after they came."""
        self.answers[status] = self.answers.get(status, 0) + count
        if status == Status.SUCCESS:
            self.succeeded_ns += total
            self.latencies[bisect_left(LATENCY_BOUNDS, total)] += 1
        else:
            self.failed_ns += total

    def delivered(self, now: Nanos, timing: RequestTiming, result: InferResult) -> None:
        """A request was answered in time by a batch."""
        self.last_success = now
        self.queue_ns += timing.queue
        self.input_ns += result.copy_input.duration
        self.exec_ns += timing.exec
        self.output_ns += result.copy_output.duration

    def acted(self, action: LoadWeights | EvictWeights | Infer, result: Result) -> None:
        """A device has done something for the model; what failed is not counted."""
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
        """A request of a batch was executed again alone, or was not; see `ModelCounts`."""
        self.checks[outcome] = self.checks.get(outcome, 0) + 1

    def named(self) -> dict[str, int]:
        """The answers by the name of their status."""
        return by_name(self.answers)

    def summary(self) -> ModelCounts:
        """For those who ask."""
        sizes = sorted(self.by_batch_size.items())
        return ModelCounts(
            self.named(),
            self.pending,
            self.rows,
            self.batches,
            self.succeeded_ns,
            self.failed_ns,
            self.queue_ns,
            self.input_ns,
            self.exec_ns,
            self.output_ns,
            tuple(self.latencies),
            self.kept_promises,
            self.late_ns,
            self.loads,
            self.load_ns,
            self.evictions,
            tuple(BatchCounts(size, *sums) for size, sums in sizes),
            self.last_success,
            dict(self.checks),
        )


class Tally:
    """Counters per model, and of the requests that are for none."""

    def __init__(self) -> None:
        """Nothing counted."""
        self._counts: defaultdict[str, Counts] = defaultdict(Counts)
        self._without_model: dict[int, int] = {}

    def of(self, model: str) -> Counts:
        """The counters of a model that is served; to be read, or to be raised."""
        return self._counts[model]

    def count_without_model(self, status: int, count: int = 1) -> None:
        """Count requests that were answered before it was known whether there is such a model."""
        self._without_model[status] = self._without_model.get(status, 0) + count

    def without_model(self) -> dict[str, int]:
        """How many, by the name of the status."""
        return by_name(self._without_model)


def by_name(answers: dict[int, int]) -> dict[str, int]:
    """By names in the place of numbers; in the order of their first."""
    made: dict[str, int] = {}
    for status, count in answers.items():
        name = counts.known_name(status)
        made[name] = made.get(name, 0) + count
    return made
