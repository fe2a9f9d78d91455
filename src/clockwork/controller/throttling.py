"""Lets no more requests through to the scheduler than it admits, and some more, while the server is busy.

The scheduler refuses what the devices cannot do in time. It does that after a request was received, parsed and placed
in vain, which costs nearly as much as a request that is served. So where most requests of a model are refused, and the
server is the bottleneck, most of them are refused beforehand.

Theory of operation (Google, "Site Reliability Engineering", chapter 21, adaptive throttling). For each model the
requests and those admitted are counted, with a decay. Requests beyond `HEADROOM` times those admitted are refused, in a
regular pattern. The rest are more than the devices can do, so the scheduler still chooses among them, and notices
at once when there is room.

That is only done for requests that cost much to receive. Batches of small requests need a crowd to choose from: with
fewer requests the devices do less, so fewer are admitted, and so on.

Rules of the file: a request whose SLO is longer than those that were refused lately always goes to the scheduler. So
does one of `TRICKLE`, so that a verdict of the scheduler is never remembered for long.
"""

from math import exp
from typing import Final

from clockwork.messages.requests import RequestTiming
from clockwork.messages.status import Status
from clockwork.state import PendingRequest
from clockwork.units import MILLISECOND, Nanos

HEADROOM: Final = 1.25
"""Requests that go to the scheduler for each that it admits."""

TRICKLE: Final = 0.05
"""Share of a model's requests that goes to the scheduler in any case."""

WINDOW: Final[Nanos] = 500 * MILLISECOND
"""Time constant of the decay of counts."""

MEMORY: Final[Nanos] = 100 * MILLISECOND
"""A refusal by the scheduler is remembered for this long: without a new one, there is room again."""

MIN_COUNT: Final = 20.0
"""Requests in the window below which nothing is refused beforehand."""

MAX_MODELS: Final = 10_000
"""Models that are counted; others are never throttled."""


class _Counts:
    """The requests of one model."""

    __slots__ = ("admitted", "asked", "at", "credit", "refused_at", "refused_slo", "retry_after")

    def __init__(self, now: Nanos) -> None:
        self.asked = self.admitted = self.credit = 0.0
        self.at = now
        self.refused_at: Nanos | None = None  #: when the scheduler refused one last
        self.refused_slo: Nanos = 0  #: the longest SLO of those that it refused lately
        self.retry_after: Nanos = 0  #: what it said then

    def decay(self, now: Nanos) -> None:
        if now > self.at:
            factor = exp((self.at - now) / WINDOW)
            self.asked *= factor
            self.admitted *= factor
            self.at = now


class Throttle:
    """Counts by model; only models that the server has answered for are counted."""

    def __init__(self) -> None:
        """Start with no counts."""
        self._counts: dict[str, _Counts] = {}

    def verdict(self, request: PendingRequest, status: int, timing: RequestTiming, retry_after: Nanos | None) -> None:
        """Count a request that is answered, as admitted or as refused because of its deadline."""
        now = request.arrival + timing.total
        if status == Status.SUCCESS or request.promised is not None:
            self.note(now, request.model.name, admitted=True)
        elif status == Status.CONTROLLER_COULD_NOT_START_IN_TIME:
            slo = request.deadline - request.arrival
            self.note(now, request.model.name, admitted=False, slo=slo, retry_after=retry_after)

    def note(self, now: Nanos, model: str, *, admitted: bool, slo: Nanos = 0, retry_after: Nanos | None = None) -> None:
        """Count a request that the scheduler has admitted or refused."""
        counts = self._counts.get(model)
        if counts is None:
            if len(self._counts) >= MAX_MODELS:
                return
            counts = self._counts[model] = _Counts(now)
        counts.decay(now)
        counts.asked += 1
        if admitted:
            counts.admitted += 1
            return
        recent = counts.refused_at is not None and now - counts.refused_at < MEMORY
        counts.refused_slo = max(slo, counts.refused_slo) if recent else slo
        counts.refused_at = now
        counts.retry_after = retry_after or 0

    def refuses(self, now: Nanos, model: str, slo: Nanos) -> Nanos | None:
        """Return the retry time of a request that is refused beforehand, or None: it goes to the scheduler."""
        counts = self._counts.get(model)
        if counts is None or counts.refused_at is None or now - counts.refused_at > MEMORY or slo > counts.refused_slo:
            return None
        counts.decay(now)
        if counts.asked < MIN_COUNT:
            return None
        share = min(1 - TRICKLE, 1 - HEADROOM * counts.admitted / counts.asked)
        if share <= 0:
            return None
        counts.credit += share
        if counts.credit < 1:
            return None
        counts.credit -= 1
        counts.asked += 1
        return counts.retry_after
