"""Profiles: the measured times of a model on one kind of device."""

from math import ceil
from typing import Final

from msgspec import Struct

from clockwork.units import Nanos

MIN_SAMPLES: Final = 10
"""Number of measurements behind an estimate, as in the original (OSDI'20 artifact, estimate window 10). The p99 of 10
measurements is their maximum."""

MAX_SLOWDOWN_PER_ROW: Final = 0.03
"""Share by which a batch may take longer per row than a smaller batch. Fewer, larger actions save work elsewhere."""


class ProfileKey(Struct, frozen=True, array_like=True):
    """Everything that a measured time depends on. Models with equal keys share their measurements.

    ``digest`` identifies the model's content; ``runtime`` is the runtime with its version; ``device_kind`` is the
    hardware with the number of threads, as in `GPUInfo.kind`.
    """

    digest: str
    runtime: str
    device_kind: str


class Measurement(Struct, frozen=True, array_like=True):
    """Durations of repeated executions of one action, in nanoseconds and in order; at least one."""

    samples: tuple[Nanos, ...]

    def percentile(self, percent: float) -> Nanos:
        """Return the smallest sample that at least ``percent`` % of the samples do not exceed (nearest rank)."""
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

    ``max_batch_size`` is the largest batch size that was requested; smaller sizes that ``infer`` lacks take too long.
    ``input_shapes`` are the measured shapes without a batch dimension; they matter for models with free dimensions.
    ``unbatched`` is the reason why requests are no longer batched: the difference that a check in service found; empty:
    requests are batched. ``stopped`` is the reason why batch sizes up to ``max_batch_size`` are missing; empty if none
    is missing or the model does not batch. ``unmeasured`` is the reason why ``infer`` is an assumption; empty: the
    times were measured.
    """

    load_weights: Measurement
    infer: dict[int, Measurement]
    max_batch_size: int = 1
    input_shapes: tuple[tuple[int, ...], ...] = ()
    unbatched: str = ""
    stopped: str = ""
    unmeasured: str = ""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The measured batch sizes in ascending order; always contains 1."""
        return tuple(sorted(self.infer))

    @property
    def worthwhile_batch_size(self) -> int:
        """The largest batch size whose time per row is within `MAX_SLOWDOWN_PER_ROW` of the best smaller batch size.

        On a GPU this is usually the largest batch size. On a CPU core batches save nothing, and caches overflow:
        squeezenet took 2.91, 2.92, 2.95, 3.15 and 3.34 ms per row at 1, 2, 4, 8 and 16 rows.
        """
        best, least = 1, float("inf")
        for size in self.batch_sizes:
            per_row = self.infer[size].median / size
            if per_row <= least * (1 + MAX_SLOWDOWN_PER_ROW):
                best = size
            least = min(least, per_row)
        return best

    def infer_estimate(self, batch_size: int) -> Nanos:
        """Return the p99 of Infer at ``batch_size`` or the next larger measured size.

        Beyond the largest measured size, the estimate grows in proportion.
        """
        for measured in self.batch_sizes:
            if measured >= batch_size:
                return self.infer[measured].p99
        largest = self.batch_sizes[-1]
        return ceil(self.infer[largest].p99 * batch_size / largest)
