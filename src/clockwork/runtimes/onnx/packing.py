"""Is it worth it to pack weights anew in every session?

ONNX Runtime copies the weights of matrix products, of recurrent and of quantised operators into a layout of its kernels
("prepacking") whenever it makes a session, and keeps both. Those of convolutions it uses as they are. Packed weights
make LoadWeights long, and a weights cache half as large; without them the kernels pack as they go, which hardly matters
where each weight is used for many rows and matters very much where it is used for a few.

Rules of the file: it is decided once, when a model is read, by trying both. Packing stays if what it takes is small, if
anything is unclear, or if executing takes more than `SLOWER_MAX` times as long without. Measured on one core of an AMD
EPYC (family 26), onnxruntime 1.32 (``python benchmarks/bench_weights.py``): LoadWeights in ms, its heap in MB, and the
time of executing without as a multiple of that with:

===========  ===============  ===============  =======  =======  =======
model        packed           not packed       batch 1  batch 4  batch 8
===========  ===============  ===============  =======  =======  =======
squeezenet     0.8,   0.4 MB    0.7,   0.4 MB    1.00     1.00     0.99
densenet121    5.9,   3.9 MB    5.9,   3.9 MB    1.01     0.98     1.01
resnet50       3.0,   9.0 MB    1.2,   0.7 MB    1.00     1.00     1.04
alexnet      128  , 235   MB    0.4,   0.2 MB    1.02     1.10     1.07
vgg19        268  , 495   MB    0.6,   0.3 MB    1.00     1.03     1.01
===========  ===============  ===============  =======  =======  =======

Four products with 2048 x 2048 weights take 1.4 times as long for one row and 2.6 times for four; with weights of 8 bits
3.0 and 2.1 times, with weights of 4 bits more than 60 times.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from clockwork.arrays import Array
from clockwork.clock import MonotonicClock
from clockwork.errors import ClockworkError
from clockwork.units import MIB, SECOND, Bytes, Nanos

PACKED_BYTES_MIN: Final[Bytes] = MIB
"""Less is packed without asking: it takes less than a millisecond."""

SLOWER_MAX: Final = 1.2
"""Image networks are at 1.1 at most, what consists of products above 1.4 (see the table)."""

ROUNDS_MIN: Final = 2
ROUNDS_MAX: Final = 7
"""Both take turns so often, and the shortest of each is compared: what disturbs makes times longer only."""

BUDGET: Final[Nanos] = SECOND
"""No round begins later than that, but the first `ROUNDS_MIN`."""

Feed: TypeAlias = Mapping[str, Array]
Run: TypeAlias = Callable[[Feed], object]

_clock: Final = MonotonicClock()


def worth_packing(packed: Run, unpacked: Run, feeds: Sequence[Feed], packed_bytes: Bytes) -> bool:
    """Whether packed weights, which take ``packed_bytes``, save enough time on these inputs."""
    if packed_bytes < PACKED_BYTES_MIN or not feeds:
        return True
    try:
        times = [_shortest(packed, unpacked, feed) for feed in feeds]
    except ClockworkError:
        return True
    return sum(slow for _, slow in times) > SLOWER_MAX * sum(fast for fast, _ in times)


def _shortest(packed: Run, unpacked: Run, feed: Feed) -> tuple[Nanos, Nanos]:
    runs = (packed, unpacked)
    for run in runs:
        run(feed)  # the first is slower: memory for its activations
    times: tuple[list[Nanos], list[Nanos]] = ([], [])
    begin = _clock.now()
    while len(times[0]) < ROUNDS_MIN or (len(times[0]) < ROUNDS_MAX and _clock.now() - begin < BUDGET):
        for run, its in zip(runs, times, strict=True):
            start = _clock.now()
            run(feed)
            its.append(_clock.now() - start)
    return min(times[0]), min(times[1])
