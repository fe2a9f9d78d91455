"""Reads traces of Azure Functions in the format of the 2019 data set, and makes similar synthetic traces.

The data set (Shahrad et al., *Serverless in the Wild*, ATC 2020) contains one CSV file per day. The columns are
HashOwner, HashApp, HashFunction, Trigger, and the invocations in each of the day's 1440 minutes. The replay follows
OSDI'20 (artifact of section 6.5). Functions are sorted by their invocations per day. The requests of function i use
model ``i * models // functions``. Each minute is replayed as a Poisson process whose mean number of requests is the
minute's count. A compressed replay shortens each minute, and keeps the rates.

`synthetic_trace` generates lines in this format, for machines without the data set. The lines resemble the published
data: a few functions cause most invocations, and the total depends on the time of day. Some functions are bursty, and
some are timers. Results of a synthetic trace must be reported as synthetic.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import cos, exp, pi
from random import Random
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.units import SECOND, Nanos
from clockwork.workload.request import WorkloadRequest
from clockwork.workload.streams import Slo

COLUMNS_BEFORE: Final = 4
MAX_FUNCTIONS: Final = 200_000


def parse_trace(lines: Iterable[str]) -> list[list[int]]:
    """Return the counts per minute of each function, with the busiest function first.

    Raises:
        InvalidRequestError: a line does not have this format.
    """
    rest = iter(lines)
    header = next(rest, "")
    if not header.startswith("HashOwner,HashApp,HashFunction,Trigger,1"):
        found = header[:60] or "nothing"
        raise InvalidRequestError(
            f"trace begins with {found!r}; a trace of Azure Functions begins with "
            "HashOwner,HashApp,HashFunction,Trigger,1,..."
        )
    minutes = header.count(",") + 1 - COLUMNS_BEFORE
    functions: list[list[int]] = []
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        cells = line.rstrip("\n").split(",")
        try:
            counts = [int(cell) for cell in cells[COLUMNS_BEFORE:]]
        except ValueError as error:
            raise InvalidRequestError(f"line {number} of the trace: {error}") from None
        if len(counts) != minutes or min(counts) < 0:
            raise InvalidRequestError(
                f"line {number} of the trace has {len(counts)} counts; expected {minutes}, none negative"
            )
        if len(functions) >= MAX_FUNCTIONS:
            raise InvalidRequestError(f"trace has too many functions; the limit is {MAX_FUNCTIONS}")
        functions.append(counts)
    if not functions:
        raise InvalidRequestError("trace has no functions")
    functions.sort(key=sum, reverse=True)
    return functions


def per_model(functions: Sequence[Sequence[int]], models: int) -> list[list[int]]:
    """Return the counts per minute of each model. Function i uses model ``i * models // functions``."""
    minutes = len(functions[0])
    counts_of_models = [[0] * minutes for _ in range(models)]
    for i, counts in enumerate(functions):
        row = counts_of_models[i * models // len(functions)]
        for minute, count in enumerate(counts):
            if count:
                row[minute] += count
    return counts_of_models


def synthetic_trace(functions: int, total_rate: float, minutes: int, rng: Random) -> Iterator[str]:
    """Yield the lines of a synthetic trace. All functions together have about ``total_rate`` invocations per second."""
    yield "HashOwner,HashApp,HashFunction,Trigger," + ",".join(str(i + 1) for i in range(minutes))
    weights = [rng.lognormvariate(0.0, 2.2) for _ in range(functions)]
    scale = total_rate * 60 / sum(weights)
    day = [_daytime(minute) for minute in range(minutes)]
    for number, weight in enumerate(weights):
        kind = rng.random()
        mean = weight * scale
        counts = _timer(mean, minutes, rng) if kind < 0.3 else _bursty(mean, day, rng) if kind < 0.5 else None
        if counts is None:
            counts = [_count(mean * level, rng) for level in day]
        trigger = "timer" if kind < 0.3 else "queue" if kind < 0.5 else "http"
        yield f"o{number},a{number},f{number},{trigger}," + ",".join(map(str, counts))


def _daytime(minute: int) -> float:
    """Return the relative load of a minute of the day. The average is 1."""
    return 1.0 - 0.3 * cos(2 * pi * minute / 1440)


def _timer(mean: float, minutes: int, rng: Random) -> list[int]:
    """Return the counts of a timer, which has invocations in one minute of each period.

    ``mean`` is the mean per minute.
    """
    period = rng.choice((1, 1, 5, 10, 15, 30, 60))
    first = rng.randrange(period)
    at_once = mean * period
    return [_count(at_once, rng) if minute % period == first else 0 for minute in range(minutes)]


def _bursty(mean: float, day: Sequence[float], rng: Random) -> list[int]:
    """Return the counts of a bursty function.

    Such a function has several times its mean count for some minutes, and then pauses for longer.
    """
    duty, counts, on, left = 0.25, [], rng.random() < 0.25, rng.randint(1, 20)
    for level in day:
        if left <= 0:
            on = not on
            left = 1 + int(rng.expovariate(1 / (5 if on else 15)))
        left -= 1
        counts.append(_count(mean / duty * level, rng) if on else 0)
    return counts


def _count(mean: float, rng: Random) -> int:
    """Draw a count with this mean.

    For a small mean, the count has a Poisson distribution. For a large mean, it has a rounded normal distribution.
    """
    if mean > 50:
        return max(0, round(rng.gauss(mean, mean**0.5)))
    draw, least, count = (
        rng.random,
        exp(-mean),
        0,
    )  # Knuth's method counts factors until their product is below this value
    product = draw()
    while product > least:
        count += 1
        product *= draw()
    return count


class TraceStream:
    """Replays counts per minute.

    Each minute is a Poisson process whose rate is the minute's total of all models.
    """

    __slots__ = (
        "_batch_size",
        "_counts",
        "_end",
        "_first_minute",
        "_load_factor",
        "_minute",
        "_models",
        "_next",
        "_number",
        "_rng",
        "_slo",
        "_start",
        "_stop",
        "_sums",
    )

    def __init__(
        self,
        number: int,
        models: Sequence[str],
        counts: Sequence[Sequence[int]],
        load_factor: float,
        first_minute: int,
        minutes: int,
        minute: Nanos,
        slo: Slo,
        start: Nanos,
        stop: Nanos,
        batch_size: int,
        rng: Random,
    ) -> None:
        """``counts`` contains the counts per minute of each model.

        The replay starts at ``first_minute`` and lasts at most ``minutes``. Each minute of the trace is replayed in the
        time ``minute``, at the rate of the trace.
        """
        self._number, self._models, self._slo, self._rng = number, models, slo, rng
        self._start, self._batch_size = start, batch_size
        minutes = min(minutes, len(counts[0]) - first_minute)
        self._stop = min(stop, start + minutes * minute)
        self._minute = minute
        self._counts, self._load_factor, self._first_minute = counts, load_factor, first_minute
        self._sums: list[float] = []
        self._end: Nanos = 0  #: end of the minute for which `_sums` was computed
        self._next: Nanos | None = None
        self._advance(0)

    def _advance(self, now: Nanos) -> None:
        while self._start + now < self._stop:
            if now >= self._end:
                minute, factor = now // self._minute, self._load_factor
                column = self._first_minute + minute
                self._sums = list(accumulate(row[column] * factor / 60 for row in self._counts))
                self._end = (minute + 1) * self._minute
            total = self._sums[-1]
            at = now + int(self._rng.expovariate(total / SECOND)) + 1 if total > 0 else self._end
            if at < self._end:
                self._next = at if self._start + at < self._stop and self._slo(at) is not None else None
                return
            now = self._end
        self._next = None

    def next_send(self) -> Nanos | None:
        """Return the time of the next request, or None if the stream has ended."""
        return None if self._next is None else self._start + self._next

    def take(self) -> WorkloadRequest:
        """Remove and return the request that is due at `next_send`."""
        at = self._next
        assert at is not None
        model = self._models[bisect_left(self._sums, self._rng.random() * self._sums[-1])]
        slo = self._slo(at)
        assert slo is not None
        self._advance(at)
        return WorkloadRequest(self._number, 0, model, self._start + at, slo[0], slo[1], self._batch_size)

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """Do nothing, because a trace does not depend on responses."""
