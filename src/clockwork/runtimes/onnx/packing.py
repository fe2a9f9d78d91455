"""Decides whether sessions pack weights.

When ONNX Runtime opens a session, it packs weights ("prepacking"): it copies the weights of matrix products, recurrent
operators and quantised operators into a layout that suits its kernels. ONNX Runtime keeps the original and the copy.
Weights of convolutions are used without a copy. Packed weights make LoadWeights slow and halve the capacity of the
weights cache. Without packed weights, the kernels pack weights during each inference. Packing during an inference costs
little per row if each weight is used for many rows, and much if each weight is used for few rows.

When a model is read, both variants are tried, and one is chosen. Weights are packed in three cases: the packed copy is
small, the trial fails, or execution without packing takes more than `MAX_SLOWDOWN` times as long. The table shows the
time of LoadWeights in ms, and the heap memory that LoadWeights allocates, in MB. The last columns show the execution
time without packing, as a multiple of the time with packing. The measurements (``python benchmarks/bench_weights.py``)
used one core of an AMD EPYC (family 26) and onnxruntime 1.32.

===========  ===============  ===============  =======  =======  =======
model        packed           not packed       batch 1  batch 4  batch 8
===========  ===============  ===============  =======  =======  =======
squeezenet     0.8,   0.4 MB    0.7,   0.4 MB    1.00     1.00     0.99
densenet121    5.9,   3.9 MB    5.9,   3.9 MB    1.01     0.98     1.01
resnet50       3.0,   9.0 MB    1.2,   0.7 MB    1.00     1.00     1.04
alexnet      128  , 235   MB    0.4,   0.2 MB    1.02     1.10     1.07
vgg19        268  , 495   MB    0.6,   0.3 MB    1.00     1.03     1.01
===========  ===============  ===============  =======  =======  =======

Another test model has four matrix products with 2048 x 2048 weights. Without packing, the model takes 1.4 times as long
for one row and 2.6 times as long for four rows. With 8-bit weights, the factors are 3.0 and 2.1. With 4-bit weights,
the factors are more than 60.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from clockwork.arrays import Array
from clockwork.clock import MonotonicClock
from clockwork.errors import ClockworkError
from clockwork.units import MIB, MILLISECOND, Bytes, Nanos

MIN_PACKED_BYTES: Final[Bytes] = MIB
"""Smaller packed weights are kept without a trial, because packing them takes less than a millisecond."""

MAX_SLOWDOWN: Final = 1.2
"""Weights are packed if execution without packing takes more than this multiple of the time with packing.

Without packing, image networks take at most 1.1 times as long. Networks of matrix products take more than 1.4 times as
long.
"""

MIN_ROUNDS: Final = 2
MAX_ROUNDS: Final = 8
"""`MIN_ROUNDS` and `MAX_ROUNDS` limit the number of rounds.

Each round runs both variants. The shortest time of each variant counts, because disturbances only add time.
"""

BUDGET: Final[Nanos] = 500 * MILLISECOND
"""Time after which no further round starts, except for the first `MIN_ROUNDS` rounds."""

Feed: TypeAlias = Mapping[str, Array]
Run: TypeAlias = Callable[[Feed], object]

_clock: Final = MonotonicClock()


def worth_packing(packed: Run, unpacked: Run, feeds: Sequence[Feed], packed_bytes: Bytes) -> bool:
    """Return whether to use packed weights, which need ``packed_bytes`` of memory and save time on these inputs."""
    if packed_bytes < MIN_PACKED_BYTES or not feeds:
        return True
    try:
        times = [_shortest(packed, unpacked, feed) for feed in feeds]
    except ClockworkError:
        return True
    return sum(slow for _, slow in times) > MAX_SLOWDOWN * sum(fast for fast, _ in times)


def _shortest(packed: Run, unpacked: Run, feed: Feed) -> tuple[Nanos, Nanos]:
    """Return the shortest time of each run. The first run is slower, because it allocates memory for activations."""
    times: tuple[list[Nanos], list[Nanos]] = ([], [])
    begin = _clock.now()
    while len(times[0]) < MIN_ROUNDS or (len(times[0]) < MAX_ROUNDS and _clock.now() - begin < BUDGET):
        for run, run_times in zip((packed, unpacked), times, strict=True):
            start = _clock.now()
            run(feed)
            run_times.append(_clock.now() - start)
    return min(times[0]), min(times[1])
