"""Executes rows alone and in batches, and compares the outputs. A model must pass this trial before it is batched.

Theory of operation. Rows that differ in content and magnitude are first executed alone. Then these rows are executed in
batches of several sizes and orders, so that each row is the first, the last and a middle row of a batch. Integers,
booleans and strings must be equal. Floats may differ as much as sums in a different order: by a few units in the last
place of the row's largest element. If a row differs by more, a batch of copies of the row is executed as well. The row
may then differ by a small multiple of the difference in that batch, up to a limit.

If the graph proves that rows are independent, the trial only checks the runtime, so it is short. The first batch is
always executed. Further batches are executed only within `BUDGET`. For models without such a proof, the trial is the
only check, and all batches are executed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, TypeAlias

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.clock import MonotonicClock
from clockwork.errors import ClockworkError
from clockwork.units import MILLISECOND, Nanos

Run: TypeAlias = Callable[[Mapping[str, Array]], list[Array]]
"""Function that runs one graph. The function's argument maps input names to arrays. The result is the list of outputs.
"""

Feed: TypeAlias = Mapping[str, Array]

ORDERS: Final = ((1, 0, 1), (0, 1), (2, 0, 3, 1, 2), (3, 2, 1, 0), (0, 4, 1, 5, 2, 6, 3, 7))
"""The numbers of the rows in each batch. The numbers are taken modulo the number of available rows."""

BUDGET: Final[Nanos] = 100 * MILLISECOND
"""Time after which a short trial starts no further batch."""

ULPS: Final = 64
"""Differences up to this are accepted. The unit is the last place of the row's largest element."""

NOISE_FACTOR: Final = 4
"""Limit of a row's difference in a batch with other rows, as a multiple of the difference in a batch of the row's
copies.
"""

PROVED_NOISE: Final = 0.05
"""Largest accepted difference of a model with a proof, as a fraction of the row's largest element.

For example, with the model magika on onnxruntime 1.32, batches of one row and of two rows differ by 0.0041.
"""

COARSE: Final = 0.1
"""Used in place of `PROVED_NOISE` for a model that computes one quantisation scale for a whole batch."""

_clock: Final = MonotonicClock()


class Precision(Struct, frozen=True):
    """Precision of a float type. Both numbers are fractions of the largest element.

    ``ulp`` is the unit in the last place. ``noise`` is the largest accepted difference for a model without a proof.
    """

    ulp: float
    noise: float


PRECISIONS: Final = {
    "float64": Precision(2.0**-52, 1e-9),
    "float32": Precision(2.0**-23, 1e-3),
    "float16": Precision(2.0**-10 / 16, 2e-2),
    "bfloat16": Precision(2.0**-7 / 32, 5e-2),
}
"""Precision of each type, by numpy's name of the type. ``noise`` applies to models without a proof.

Kernels add 16-bit floats in higher precision, so their results differ by fewer units. With the values in the table,
`ULPS` corresponds to 4 units of float16 and 2 units of bfloat16.
"""


def why_not_batchable(
    run: Run, rows: Iterable[tuple[Feed, list[Array] | None]], thorough: bool, coarse: bool = False
) -> str:
    """Return why the rows cannot be batched, or an empty string if they can.

    ``rows`` are single rows. Each row is paired with the model's outputs for the row, or with None. A row is skipped if
    the model rejects it when executed alone, or if its outputs overflow.

    For ``thorough`` and ``coarse``, see `clockwork.runtimes.batching.TrialPlan`. If ``coarse`` is true, floats may
    differ by `COARSE`, and other types are not compared.
    """
    trial = _Trial(run, rows, thorough, coarse)
    begin = _clock.now()
    for i, order in enumerate(ORDERS):
        if i and not thorough and _clock.now() - begin > BUDGET:
            break
        problem = trial.batch(order)
        if problem:
            return problem
    return ""


class _Trial:
    """Rows, and their outputs when executed alone."""

    def __init__(self, run: Run, rows: Iterable[tuple[Feed, list[Array] | None]], thorough: bool, coarse: bool) -> None:
        self._run = run
        self._thorough = thorough
        self._coarse = coarse
        self._remaining = iter(rows)
        self._rows: list[tuple[Feed, list[Array]]] = []

    def batch(self, order: Sequence[int]) -> str:
        """Execute one batch and compare each of its rows."""
        self._execute_alone(max(order) + 1)
        if not self._rows:
            return "it rejects every random row made to try it"
        numbers = [i % len(self._rows) for i in order]
        outputs = attempt(self._run, stack([self._rows[i][0] for i in numbers]))
        if outputs is None:
            return f"it rejects a batch of {len(order)} rows, each of which it accepts alone"
        copies_of = cache(partial(self._copies, len(order)))  # some rows are in the batch more than once
        for position, number in enumerate(numbers):
            for output, (alone, together) in enumerate(zip(self._rows[number][1], outputs, strict=True)):
                if alone.shape[:1] != (1,) or together.shape != (len(order), *alone.shape[1:]):
                    return (
                        f"output {output} has shape {list(together.shape)} for {len(order)} rows "
                        f"and {list(alone.shape)} for one"
                    )
                if not self._agree(partial(copies_of, number), output, alone, together[position : position + 1]):
                    return f"output {output} of a row differs between a batch of {len(order)} rows and the row alone"
        return ""

    def _execute_alone(self, count: int) -> None:
        """Execute rows alone until the outputs of ``count`` rows are known, or no row is left."""
        while len(self._rows) < count:
            following = next(self._remaining, None)
            if following is None:
                return
            feed, outputs = following
            if outputs is None:
                outputs = attempt(self._run, feed)
            if outputs is not None and all(map(_is_finite, outputs)):
                self._rows.append((feed, outputs))

    def _copies(self, size: int, number: int) -> list[Array] | None:
        """Execute a batch of ``size`` copies of one row."""
        return attempt(self._run, stack([self._rows[number][0]] * size))

    def _agree(
        self, execute_copies: Callable[[], list[Array] | None], output: int, alone: Array, together: Array
    ) -> bool:
        if not is_float(alone):
            return self._coarse or bool(np.array_equal(alone, together))
        wanted: Any = alone.astype(np.float64)
        largest = float(np.abs(wanted).max(initial=0.0))
        difference = _distance(wanted, together)
        if self._coarse:
            return difference <= COARSE * largest
        precision = PRECISIONS[alone.dtype.name]
        if difference <= ULPS * precision.ulp * largest:
            return True
        copies = execute_copies()
        if copies is None:
            return False
        noise = _distance(wanted, copies[output])  # the largest difference of a copy from the row alone
        limit = precision.noise if self._thorough else max(PROVED_NOISE, precision.noise)
        return difference <= min(NOISE_FACTOR * noise, limit * largest)


def attempt(run: Run, feed: Feed) -> list[Array] | None:
    """Return the outputs, or None if the model rejects the inputs."""
    try:
        return run(feed)
    except ClockworkError:
        return None


def stack(feeds: Sequence[Feed]) -> dict[str, Array]:
    """Concatenate single rows into one batch."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def is_float(array: Array) -> bool:
    """Whether the elements are floats, including bfloat16."""
    return array.dtype.kind == "f" or array.dtype.isbuiltin != 1


def _is_finite(array: Array) -> bool:
    return not is_float(array) or bool(np.isfinite(array.astype(np.float64)).all())


def _distance(wanted: Array, found: Array) -> float:
    """Return the largest difference between two arrays of one shape.

    The difference is infinite if an element is not finite.
    """
    difference: Any = np.abs(found.astype(np.float64) - wanted)
    return float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0))


def row_kinds(thorough: bool, coarse: bool) -> Iterator[str]:
    """Yield the kinds of rows to try after a first row of fractions."""
    yield from ("fractions",) * 3 if coarse else ("signed", "fractions", "signed")
    if thorough and not coarse:
        yield from ("zeros", "large", "small", "negative")
