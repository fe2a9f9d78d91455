"""Streams: each makes the requests of one entry of a workload, in order of time."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import log
from random import Random
from typing import Protocol

from clockwork.units import SECOND, Nanos
from clockwork.workload.arrivals import Process
from clockwork.workload.mix import Mix
from clockwork.workload.request import WorkloadRequest

Slo = Callable[[Nanos], tuple[Nanos | None, float | None] | None]
"""A moment after the stream's start -> the SLO of a request, as time or as a factor; None: the stream is over."""


class Stream(Protocol):
    """What makes requests."""

    def next_send(self) -> Nanos | None:
        """When its next request is due; None: it has ended, or only an answer can move it."""
        ...

    def take(self) -> WorkloadRequest:
        """The request that is due at `next_send`, once."""
        ...

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """One of its requests was answered; ``retry_after`` if it was refused and told when to come back."""
        ...


class OpenLoop:
    """Requests come when they come, whatever became of those before."""

    __slots__ = ("_batch_size", "_mix", "_next", "_number", "_process", "_slo", "_start", "_stop")

    def __init__(
        self, number: int, process: Process, mix: Mix, slo: Slo, start: Nanos, stop: Nanos, batch_size: int
    ) -> None:
        """From ``start`` until before ``stop``."""
        self._number, self._process, self._mix, self._slo = number, process, mix, slo
        self._start, self._stop, self._batch_size = start, stop, batch_size
        self._next: Nanos | None = None
        self._advance(0)

    def _advance(self, now: Nanos) -> None:
        at = self._process(now)
        self._next = at if self._start + at < self._stop and self._slo(at) is not None else None

    def next_send(self) -> Nanos | None:
        """See `Stream`."""
        return None if self._next is None else self._start + self._next

    def take(self) -> WorkloadRequest:
        """See `Stream`."""
        at = self._next
        assert at is not None
        slo = self._slo(at)
        assert slo is not None
        self._advance(at)
        return WorkloadRequest(self._number, 0, self._mix(), self._start + at, slo[0], slo[1], self._batch_size)

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """An open loop does not care."""


class ClosedLoop:
    """Clients that each wait for an answer before they ask again; one that was refused waits as long as it was told."""

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
        """``concurrency`` clients of each model, whose first requests are spread over ``stagger``."""
        self._number, self._think, self._slo = number, think, slo
        self._start, self._stop, self._batch_size = start, stop, batch_size
        self._models = [model for model in models for _ in range(concurrency)]
        count = len(self._models)
        self._due = [(start + (int(rng.random() * stagger) if stagger else 0), client) for client in range(count)]
        heapify(self._due)

    def next_send(self) -> Nanos | None:
        """See `Stream`."""
        due = self._due
        if not due or due[0][0] >= self._stop or self._slo(due[0][0] - self._start) is None:
            return None
        return due[0][0]

    @property
    def waiting(self) -> bool:
        """Whether a client waits for an answer."""
        return len(self._due) < len(self._models)

    def take(self) -> WorkloadRequest:
        """See `Stream`."""
        at, client = heappop(self._due)
        slo = self._slo(at - self._start)
        assert slo is not None
        return WorkloadRequest(self._number, client, self._models[client], at, slo[0], slo[1], self._batch_size)

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """The client asks again, after thinking, or when it was told to."""
        wait = self._think if retry_after is None else max(self._think, retry_after)
        heappush(self._due, (now + wait, request.client))


class GrowingMix:
    """An active set of models that grows by one every ``step`` (OSDI'20, section 6.2, the major workload)."""

    def __init__(self, models: list[str], active: int, step: Nanos, rng: Random) -> None:
        """``active`` models from the start."""
        self._models, self._active, self._step, self._rng = models, active, step, rng

    def choose(self, at: Nanos) -> str:
        """One of those active at a moment, each as often."""
        active = min(len(self._models), self._active + at // self._step)
        return self._models[int(self._rng.random() * active)]


class GrowingLoop(OpenLoop):
    """An open loop over a `GrowingMix`."""

    __slots__ = ("_growing",)

    def __init__(
        self, number: int, process: Process, mix: GrowingMix, slo: Slo, start: Nanos, stop: Nanos, batch_size: int
    ) -> None:
        """See `OpenLoop`."""
        self._growing = mix
        super().__init__(number, process, str, slo, start, stop, batch_size)

    def take(self) -> WorkloadRequest:
        """See `Stream`."""
        at = self._next
        assert at is not None
        self._mix = lambda: self._growing.choose(at)
        return super().take()


def ladder(first: float, factor: float, step: Nanos, most: float, *, relative: bool) -> Slo:
    """An SLO multiplied by ``factor`` every ``step`` until it is over ``most`` (OSDI'20, section 6.3).

    ``first`` and ``most`` are nanoseconds, or, if ``relative``, multiples of the model's batch-1 time.
    """
    last = log(most / first, factor) + 1  # a bound, so that no power overflows

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
    """Always the same."""
    both = (slo, factor)
    return lambda at: both


MINUTE = 60 * SECOND
