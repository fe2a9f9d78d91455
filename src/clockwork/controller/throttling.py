"""Limits how many requests reach the scheduler while the server is busy.

The scheduler refuses requests that the devices cannot serve in time. When the scheduler refuses a request, the server
has already received and parsed it, which costs nearly as much as serving it. So if the scheduler refuses most requests
of a model and the server is the bottleneck, the throttle refuses most of these requests before the server receives
their bodies.

Theory of operation (Google, "Site Reliability Engineering", chapter 21, adaptive throttling). For each model, the
throttle counts all requests and the admitted requests. Both counts decay over time. The throttle lets `HEADROOM` times
as many requests pass as the scheduler admits. The throttle refuses all other requests, spread evenly over time. So the
scheduler still gets slightly more requests than the devices can serve. Therefore, the scheduler can choose among
requests, and notices at once when there is more capacity.

Only requests that are expensive to receive are throttled. Small requests are never throttled, because the devices need
many of them to form large batches. If fewer small requests reached the scheduler, batches would become smaller, and
fewer requests would be admitted. As a result, even fewer requests would reach the scheduler.

A request is never throttled if its SLO is longer than the SLOs of the recently refused requests. In addition, the share
`TRICKLE` of all requests is never throttled. So the throttle notices soon when the scheduler admits requests again.
"""

from math import exp
from typing import Final

from clockwork.messages.commands import NO_RETRY
from clockwork.messages.requests import DEFAULT_RETRY, RequestTiming
from clockwork.messages.status import Status
from clockwork.state import PendingRequest
from clockwork.units import MILLISECOND, Nanos

HEADROOM: Final = 1.25
"""Number of requests that reach the scheduler for each request that it admits."""

TRICKLE: Final = 0.05
"""Share of a model's requests that is never throttled."""

WINDOW: Final[Nanos] = 500 * MILLISECOND
"""Time constant of the exponential decay of the counts."""

MEMORY: Final[Nanos] = 100 * MILLISECOND
"""Time after a refusal by the scheduler during which requests may be throttled.

If the scheduler refuses no request during this time, the devices have capacity again.
"""

MIN_COUNT: Final = 20.0
"""No request is throttled while the decaying count of requests is below this number."""

MAX_MODELS: Final = 10_000
"""Limit of the models that are counted. Other models are never throttled."""


class _Counts:
    """The counts of one model's requests."""

    __slots__ = ("admitted", "at", "credit", "received", "refused_at", "refused_slo", "retry_after")

    def __init__(self, now: Nanos) -> None:
        self.received = self.admitted = self.credit = 0.0
        self.at = now
        self.refused_at: Nanos | None = None  #: when the scheduler last refused a request
        self.refused_slo: Nanos = 0  #: longest SLO of the requests that the scheduler refused recently
        self.retry_after: Nanos = 0  #: retry time of the scheduler's last refusal

    def decay(self, now: Nanos) -> None:
        if now > self.at:
            factor = exp((self.at - now) / WINDOW)
            self.received *= factor
            self.admitted *= factor
            self.at = now


class Throttle:
    """Decides by model whether a request reaches the scheduler."""

    def __init__(self) -> None:
        """Start with no counts."""
        self._counts: dict[str, _Counts] = {}

    def verdict(self, request: PendingRequest, status: int, timing: RequestTiming, retry_after: Nanos | None) -> None:
        """Count an answered request as admitted, or as refused if it was refused because of its deadline."""
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
        counts.received += 1
        if admitted:
            counts.admitted += 1
            return
        recent = counts.refused_at is not None and now - counts.refused_at < MEMORY
        counts.refused_slo = max(slo, counts.refused_slo) if recent else slo
        counts.refused_at = now
        counts.retry_after = DEFAULT_RETRY if retry_after == NO_RETRY else retry_after or 0

    def forget(self, model: str) -> None:
        """Forget a model that was removed."""
        self._counts.pop(model, None)

    def refuses(self, now: Nanos, model: str, slo: Nanos) -> Nanos | None:
        """Return the retry time if a request must be refused now.

        Return None if the request may reach the scheduler.
        """
        counts = self._counts.get(model)
        if counts is None or counts.refused_at is None or now - counts.refused_at > MEMORY or slo > counts.refused_slo:
            return None
        counts.decay(now)
        if counts.received < MIN_COUNT:
            return None
        share = min(1 - TRICKLE, 1 - HEADROOM * counts.admitted / counts.received)
        if share <= 0:
            return None
        counts.credit += share
        if counts.credit < 1:
            return None
        counts.credit -= 1
        counts.received += 1
        return counts.retry_after
