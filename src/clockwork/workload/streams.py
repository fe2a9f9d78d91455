"""Defines streams. A stream generates the requests of one entry of a workload, in order of time."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import log
from random import Random
from typing import Protocol

from clockwork.units import Nanos
from clockwork.workload.arrivals import Process
from clockwork.workload.mix import Mix
from clockwork.workload.request import BACK_OFF, WorkloadRequest, back_off

Slo = Callable[[Nanos], tuple[Nanos | None, float | None] | None]
"""A function from a time after the stream's start to the SLO of a request at that time.

The result is a pair of a time and a factor, of which one is None. If the result itself is None, the stream ends.
"""


class Stream(Protocol):
    """A source of requests, in order of time."""

    def next_send(self) -> Nanos | None:
        """Return the time of the next request. Return None if the stream has ended or waits for a response."""
        ...

    def take(self) -> WorkloadRequest:
        """Remove and return the request that is due at `next_send`."""
        ...

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """Record the response to a request. ``retry_after`` is the result of `comes_back`."""
        ...


class OpenLoop:
    """Sends requests at times that do not depend on responses."""

    __slots__ = ("_batch_size", "_mix", "_next", "_number", "_process", "_slo", "_start", "_stop")

    def __init__(
        self, number: int, process: Process, mix: Mix, slo: Slo, start: Nanos, stop: Nanos, batch_size: int
    ) -> None:
        """Send requests from ``start`` until before ``stop``."""
        self._number, self._process, self._mix, self._slo = number, process, mix, slo
        self._start, self._stop, self._batch_size = start, stop, batch_size
        self._next: Nanos | None = None
        self._advance(0)

    def _advance(self, now: Nanos) -> None:
        at = self._process(now)
        self._next = at if self._start + at < self._stop and self._slo(at) is not None else None

    def next_send(self) -> Nanos | None:
        """Return the time of the next request, or None if the stream has ended."""
        return None if self._next is None else self._start + self._next

    def take(self) -> WorkloadRequest:
        """Remove and return the request that is due at `next_send`."""
        at = self._next
        assert at is not None
        slo = self._slo(at)
        assert slo is not None
        self._advance(at)
        return WorkloadRequest(self._number, 0, self._mix(), self._start + at, slo[0], slo[1], self._batch_size)

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """Do nothing, because an open loop does not depend on responses."""


class ClosedLoop:
    """Clients that wait for a response before they send again.

    After a failure, a client waits until the retry time. If there is no retry time, the client's wait is given by
    `back_off`.
    """

    def __init__(
        self,
        number: int,
        models: list[str],
        concurrency: int,
        think: Nanos,
        stagger: Nanos,
        slo: Slo,
        start: Nanos,
        stop: Nanos,
        batch_size: int,
        rng: Random,
    ) -> None:
        """Create ``concurrency`` clients for each model. The clients' first requests are spread over ``stagger``."""
        self._number, self._think, self._slo = number, think, slo
        self._start, self._stop, self._batch_size = start, stop, batch_size
        self._models = [model for model in models for _ in range(concurrency)]
        count = len(self._models)
        self._due = [(start + (int(rng.random() * stagger) if stagger else 0), client) for client in range(count)]
        heapify(self._due)
        self._draw = Random(rng.getrandbits(64)).random
        self._failures: dict[int, int] = {}  #: number of successive failures without a retry time, by client

    def next_send(self) -> Nanos | None:
        """Return the time of the next request. Return None if the stream has ended or waits for a response."""
        due = self._due
        if not due or due[0][0] >= self._stop or self._slo(due[0][0] - self._start) is None:
            return None
        return due[0][0]

    @property
    def waiting(self) -> bool:
        """Whether a client waits for a response."""
        return len(self._due) < len(self._models)

    def take(self) -> WorkloadRequest:
        """Remove and return the request that is due at `next_send`."""
        at, client = heappop(self._due)
        slo = self._slo(at - self._start)
        assert slo is not None
        return WorkloadRequest(self._number, client, self._models[client], at, slo[0], slo[1], self._batch_size)

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """Schedule the client's next request.

        After a success, the client pauses before the next request. After a failure, the client waits until the retry
        time or for the back-off.
        """
        if retry_after == BACK_OFF:
            failures = self._failures[request.client] = self._failures.get(request.client, 0) + 1
            retry_after = back_off(failures, self._draw())
        elif self._failures:
            self._failures.pop(request.client, None)
        wait = self._think if retry_after is None else max(self._think, retry_after)
        heappush(self._due, (now + wait, request.client))


class GrowingMix:
    """Chooses from a set of active models, which grows by one model every ``step``.

    OSDI'20 describes such a workload in section 6.2.
    """

    def __init__(self, models: list[str], active: int, step: Nanos, rng: Random) -> None:
        """Begin with ``active`` models."""
        self._models, self._active, self._step, self._rng = models, active, step, rng

    def choose(self, at: Nanos) -> str:
        """Choose one of the models that are active at this time. All active models are equally likely."""
        active = min(len(self._models), self._active + at // self._step)
        return self._models[int(self._rng.random() * active)]


class GrowingLoop(OpenLoop):
    """An open loop whose models come from a `GrowingMix`."""

    __slots__ = ("_growing",)

    def __init__(
        self, number: int, process: Process, mix: GrowingMix, slo: Slo, start: Nanos, stop: Nanos, batch_size: int
    ) -> None:
        """The arguments are the same as for `OpenLoop`, with a growing mix."""
        self._growing = mix
        super().__init__(number, process, str, slo, start, stop, batch_size)

    def take(self) -> WorkloadRequest:
        """Remove and return the request that is due at `next_send`."""
        at = self._next
        assert at is not None
        self._mix = lambda: self._growing.choose(at)
        return super().take()


def ladder(first: float, factor: float, step: Nanos, most: float, *, relative: bool) -> Slo:
    """Return an SLO that is multiplied by ``factor`` every ``step``, up to ``most`` (OSDI'20, section 6.3).

    ``first`` and ``most`` are in nanoseconds. If ``relative`` is true, they are multiples of the model's time for one
    row.
    """
    last = log(most / first, factor) + 1  # with this limit, the power below cannot overflow

    def slo(at: Nanos) -> tuple[Nanos | None, float | None] | None:
        number = at // step
        if number > last:
            return None
        value = first * factor**number
        if value > most:
            return None
        return (None, value) if relative else (round(value), None)

    return slo


def constant(slo: Nanos | None, factor: float | None) -> Slo:
    """Return an SLO that never changes."""
    both = (slo, factor)
    return lambda at: both
