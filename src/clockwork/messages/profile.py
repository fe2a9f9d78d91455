"""The type of a profile, which contains the measured times of a model on one kind of device."""

from collections.abc import Sequence
from math import ceil
from typing import Final

from msgspec import Struct

from clockwork.units import Nanos

MIN_SAMPLES: Final = 10
"""Smallest number of measurements for an estimate. The original Clockwork uses the same number.

(The artifact of the OSDI'20 paper has an estimate window of 10.) The p99 of 10 measurements is their maximum.
"""

MAX_SLOWDOWN_PER_ROW: Final = 0.03
"""A larger batch is used only if its time per row exceeds the best time per row by at most this share.

A small increase is acceptable, because fewer and larger actions save work in the controller and the worker.
"""


SLOW_START: Final = 1.25
"""A first execution is slow if it takes more than this multiple of the usual time."""


class ProfileKey(Struct, frozen=True, array_like=True):
    """The key of a profile: the properties on which measured times depend. Models with equal keys share a profile.

    ``digest`` identifies the model's content. ``runtime`` is the name and version of the runtime. ``device_kind`` is
    the hardware and the number of threads, as in `GPUInfo.kind`.
    """

    digest: str
    runtime: str
    device_kind: str


class Measurement(Struct, frozen=True, array_like=True):
    """The durations of repeated executions of one action, in nanoseconds and in order.

    There is at least one duration.
    """

    samples: tuple[Nanos, ...]

    def percentile(self, percent: float) -> Nanos:
        """Return the smallest sample that is at least as large as ``percent`` % of the samples (nearest rank)."""
        ranked = sorted(self.samples)
        return ranked[max(0, ceil(len(ranked) * percent / 100) - 1)]

    @property
    def median(self) -> Nanos:
        """The 50th percentile."""
        return self.percentile(50)

    @property
    def p99(self) -> Nanos:
        """The 99th percentile, which schedulers use as the estimate.

        With fewer than 100 samples, the percentile is the maximum.
        """
        return self.percentile(99)


class ModelProfile(Struct, frozen=True, array_like=True):
    """The measured times of one model on one kind of device: of LoadWeights, and of Infer for each batch size.

    - ``max_batch_size``: the largest batch size that the operator requested. Some smaller sizes may be missing in
      ``infer``.
    - ``stopped``: the reason why sizes are missing. The text is empty if no size is missing, or if the model does not
      support batches.
    - ``input_shapes``: the shapes with which the model was measured, without the batch dimension. The shapes matter for
      models with free dimensions.
    - ``unbatched``: the reason why requests are no longer batched, after a check has found different outputs. The text
      is empty if requests are batched.
    - ``unmeasured``: the reason why the times of ``infer`` are assumptions. The text is empty if the times were
      measured.
    - ``first``: durations of the first executions of one row, if they took longer than the later ones. ``infer`` does
      not contain these durations. Every device executes a model slowly at first, not only the device that measured the
      model.
    """

    load_weights: Measurement
    infer: dict[int, Measurement]
    max_batch_size: int = 1
    input_shapes: tuple[tuple[int, ...], ...] = ()
    unbatched: str = ""
    stopped: str = ""
    unmeasured: str = ""
    first: tuple[Nanos, ...] = ()

    @property
    def slow_start(self) -> float:
        """How long the slowest first execution takes, as a multiple of the usual time."""
        return max(1.0, max(self.first, default=0) / self.infer[1].median)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The measured batch sizes in ascending order. The first one is always 1."""
        return tuple(sorted(self.infer))

    @property
    def worthwhile_batch_size(self) -> int:
        """The largest batch size that does not take noticeably longer per row than smaller batch sizes.

        The time per row of this batch size exceeds the best time per row of the smaller batch sizes by at most
        `MAX_SLOWDOWN_PER_ROW`. On a GPU this is usually the largest measured batch size. On a CPU core batches save no
        time, and large batches do not fit into the caches. squeezenet took 2.91, 2.92, 2.95, 3.15 and 3.34 ms per row
        at 1, 2, 4, 8 and 16 rows.
        """
        best, least = 1, float("inf")
        for size in self.batch_sizes:
            per_row = self.infer[size].median / size
            if per_row <= least * (1 + MAX_SLOWDOWN_PER_ROW):
                best = size
            least = min(least, per_row)
        return best

    def infer_estimate(self, batch_size: int) -> Nanos:
        """Return the p99 of Infer for ``batch_size``, or for the next larger measured size.

        For a batch size above the largest measured size, the estimate grows in proportion to the batch size.
        """
        for measured in self.batch_sizes:
            if measured >= batch_size:
                return self.infer[measured].p99
        largest = self.batch_sizes[-1]
        return ceil(self.infer[largest].p99 * batch_size / largest)


def count_slow_first(executions: Sequence[Nanos], usual: Nanos) -> int:
    """Return how many executions at the start took far longer than the usual time."""
    slow = (i for i, duration in enumerate(executions) if duration <= SLOW_START * usual)
    return next(slow, len(executions))
