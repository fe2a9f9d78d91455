"""Executes rows alone and together, and compares them: the trial that a model passes before it is batched.

Theory of operation. Rows that differ in content and magnitude are executed alone, then in batches of several sizes and
orders, so that each stands first, last and between others. Whole numbers, booleans and strings have to be equal.
Floats may differ by what adding in another order makes of them: a few units in the last place of the row's largest
element or, where a row differs by more, as much as it differs from itself in a batch of copies, within a limit.

For a model that the graph proves to be computed row by row this is a check of the runtime, so it is short: the first
batch always, the others within `BUDGET`. For other models it is the only check there is, and is not cut short.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.clock import MonotonicClock
from clockwork.errors import ClockworkError
from clockwork.units import MILLISECOND, Nanos

Run: TypeAlias = Callable[[Mapping[str, Array]], list[Array]]
"""Runs one graph: inputs by name to outputs in order."""

Feed: TypeAlias = Mapping[str, Array]

ORDERS: Final = ((1, 0, 1), (0, 1), (2, 0, 3, 1, 2), (3, 2, 1, 0), (0, 4, 1, 5, 2, 6, 3, 7))
"""The rows of each batch, by their numbers, which count on from 0 where there are fewer rows."""

BUDGET: Final[Nanos] = 100 * MILLISECOND
"""Time after which a short trial begins no other batch."""

ULPS: Final = 64
"""Units in the last place of the row's largest element that kernels differ by, which add in another order."""

NOISE_FACTOR: Final = 4
"""A row may differ so many times more than it does from itself in a batch of copies."""

PROVED_NOISE: Final = 0.05
"""The limit of such noise where the graph is proved. magika on onnxruntime 1.32: 0.0041 between one row and two."""

COARSE: Final = 0.1
"""The same as a part of the row's largest element, for models that choose one scale for a whole batch."""

_clock: Final = MonotonicClock()


class Precision(Struct, frozen=True):
    """One type of floats: its unit in the last place, and the limit of noise, as parts of the row's largest element."""

    ulp: float
    noise: float


PRECISIONS: Final = {
    "float64": Precision(2.0**-52, 1e-9),
    "float32": Precision(2.0**-23, 1e-3),
    "float16": Precision(2.0**-10 / 16, 2e-2),
    "bfloat16": Precision(2.0**-7 / 32, 5e-2),
}
"""By the name of numpy's type; ``noise`` is for a model of which nothing is proved.

With 16 bits, sums are kept with more: results differ by few units, here by 4 and 2.
"""


def tried(run: Run, rows: Iterable[tuple[Feed, list[Array] | None]], thorough: bool, coarse: bool = False) -> str:
    """Why the rows may not be batched, or an empty string.

    ``rows`` are single rows, with what the model gives for each where that is known. Rows that the model refuses alone,
    or that overflow, are left out.

    ``coarse``: floats may differ by `COARSE`, and nothing else is compared.
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
    """The rows, and what they gave alone."""

    def __init__(self, run: Run, rows: Iterable[tuple[Feed, list[Array] | None]], thorough: bool, coarse: bool) -> None:
        self._run = run
        self._thorough = thorough
        self._coarse = coarse
        self._left = iter(rows)
        self._rows: list[tuple[Feed, list[Array]]] = []

    def batch(self, order: Sequence[int]) -> str:
        """Execute one batch and compare each of its rows."""
        self._alone(max(order) + 1)
        if not self._rows:
            return "it refuses every row that was made up to try it"
        picked = [self._rows[i % len(self._rows)] for i in order]
        made = attempt(self._run, stacked([feed for feed, _ in picked]))
        if made is None:
            return f"it refuses a batch of {len(order)} rows, each of which it accepts alone"
        for at, (feed, wanted) in enumerate(picked):
            for output, (alone, together) in enumerate(zip(wanted, made, strict=True)):
                if alone.shape[:1] != (1,) or together.shape != (len(order), *alone.shape[1:]):
                    return (
                        f"output {output} has the shape {list(together.shape)} for {len(order)} rows "
                        f"and {list(alone.shape)} for one"
                    )
                if not self._agree(feed, output, alone, together[at : at + 1], len(order)):
                    return f"output {output} of a row differs in a batch of {len(order)} from that of the row alone"
        return ""

    def _alone(self, count: int) -> None:
        """Execute rows alone until there are ``count``, or no more."""
        while len(self._rows) < count:
            following = next(self._left, None)
            if following is None:
                return
            feed, made = following
            if made is None:
                made = attempt(self._run, feed)
            if made is not None and all(map(_is_finite, made)):
                self._rows.append((feed, made))

    def _agree(self, feed: Feed, output: int, alone: Array, together: Array, size: int) -> bool:
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
        copies = attempt(self._run, stacked([feed] * size))
        if copies is None:
            return False
        noise = _distance(wanted, copies[output])  # of all copies
        limit = precision.noise if self._thorough else max(PROVED_NOISE, precision.noise)
        return difference <= min(NOISE_FACTOR * noise, limit * largest)


def attempt(run: Run, feed: Feed) -> list[Array] | None:
    """The outputs, or None if the model refuses the inputs."""
    try:
        return run(feed)
    except ClockworkError:
        return None


def stacked(feeds: Sequence[Feed]) -> dict[str, Array]:
    """One batch of single rows."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def is_float(array: Array) -> bool:
    """Whether the elements are floats, of 16 bits too."""
    return array.dtype.kind == "f" or array.dtype.isbuiltin != 1


def _is_finite(array: Array) -> bool:
    return not is_float(array) or bool(np.isfinite(array.astype(np.float64)).all())


def _distance(wanted: Array, found: Array) -> float:
    """The largest difference between two arrays of one shape; endless if one is not finite."""
    difference: Any = np.abs(found.astype(np.float64) - wanted)
    return float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0))


def kinds(thorough: bool, coarse: bool) -> Iterator[str]:
    """The kinds of rows to make up after a first one of fractions, in the order in which they are tried."""
    yield from ("fractions",) * 3 if coarse else ("signed", "fractions", "signed")
    if thorough and not coarse:
        yield from ("zeros", "large", "small", "negative")
