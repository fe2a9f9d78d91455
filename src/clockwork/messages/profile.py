"""Measured execution times: what a model costs on one kind of device."""

from math import ceil
from typing import Final

from msgspec import Struct

from clockwork.units import Nanos

MIN_SAMPLES: Final = 10
"""The original's window: the p99 of 10 measurements is their maximum (OSDI'20 artifact, estimate window 10)."""

MAX_SLOWDOWN_PER_ROW: Final = 0.03
"""A batch may take so much longer per row than a smaller one: fewer, larger actions spare the rest of the way."""


class ProfileKey(Struct, frozen=True, array_like=True):
    """Everything that a measured time depends on. Equal keys may share measurements; others must not.

    ``digest`` is of the model's content; ``runtime`` names the runtime and its version; ``device_kind`` names the
    hardware and the number of threads, as `GPUInfo.kind` does.
    """

    digest: str
    runtime: str
    device_kind: str


class Measurement(Struct, frozen=True, array_like=True):
    """Durations of one thing done many times over, in nanoseconds, in the order measured; at least one."""

    samples: tuple[Nanos, ...]

    def percentile(self, percent: float) -> Nanos:
        """The smallest sample that at least ``percent`` % of the samples do not exceed (nearest rank)."""
        ranked = sorted(self.samples)
        return ranked[max(0, ceil(len(ranked) * percent / 100) - 1)]

    @property
    def median(self) -> Nanos:
        """The 50th percentile."""
        return self.percentile(50)

    @property
    def p99(self) -> Nanos:
        """The 99th percentile: the estimate that schedulers plan with. With fewer than 100 samples, the maximum."""
        return self.percentile(99)


class ModelProfile(Struct, frozen=True, array_like=True):
    """One model on one kind of device: the time of LoadWeights, and of Infer for each batch size measured.

    ``max_batch_size`` is the largest batch size that was asked for; larger ones than in ``infer`` take too long.
    ``input_shapes`` are the shapes that were measured, without the batch dimension where there is one; they matter
    for models with free dimensions. ``unbatched`` is why requests are not put into one batch any more: what a check in
    service found. It is empty if they are.
    """

    load_weights: Measurement
    infer: dict[int, Measurement]
    max_batch_size: int = 1
    input_shapes: tuple[tuple[int, ...], ...] = ()
    unbatched: str = ""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes measured, ascending; always contains 1."""
        return tuple(sorted(self.infer))

    @property
    def worthwhile_batch_size(self) -> int:
        """The largest batch size that no smaller one beats in time per row, but for `MAX_SLOWDOWN_PER_ROW`.

        On a GPU that is the largest of all, as a rule; on a CPU core batches gain nothing, and caches overflow:
        squeezenet took 2.91, 2.92, 2.95, 3.15 and 3.34 ms per row at 1 to 16 rows.
        """
        best, least = 1, float("inf")
        for size in self.batch_sizes:
            per_row = self.infer[size].median / size
            if per_row <= least * (1 + MAX_SLOWDOWN_PER_ROW):
                best = size
            least = min(least, per_row)
        return best

    def infer_estimate(self, batch_size: int) -> Nanos:
        """p99 of Infer at ``batch_size``, or the next size that was measured; beyond the largest, in proportion."""
        for measured in self.batch_sizes:
            if measured >= batch_size:
                return self.infer[measured].p99
        largest = self.batch_sizes[-1]
        return ceil(self.infer[largest].p99 * batch_size / largest)
