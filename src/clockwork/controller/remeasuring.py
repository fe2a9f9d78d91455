"""Executes a model again after the server has refused its requests because the device is too slow for them.

Theory of operation. A disturbance of a device, such as another program on its core, makes executions slow. The
estimates grow, and may exceed the SLO of all requests for a model. In this case, every request for the model is
refused. The model is then not executed, so the estimates stay high long after the disturbance has ended. Therefore, the
controller itself executes the model, with input shapes of a refused request. These executions are requests without a
client, so they cannot break a promise. The scheduler updates its estimates with the times of these executions, in the
same way as with the times of clients' requests.

A refusal starts a *series* of executions. The series is long enough to replace all times from which an estimate is
computed. If an execution takes longer than the SLO, the series ends, because the device is still slow. After each
series there is a pause, in which no series of the model begins. If a request for the model succeeded in the last
minute, the series take at most a fifth of a device's time. If there was no success, each pause is twice as long as the
previous pause. So an SLO that the device can never meet causes only few executions. If requests with longer SLOs are
executed, their times keep the estimates up to date, and no series is needed.

The executions take at most half of a device's time. While requests are pending, the executions take at most
``live_share`` of a device's time. At most one execution is under way in the whole fleet.
"""

from typing import Final

from msgspec.structs import replace

from clockwork.controller.config import ProfilingConfig
from clockwork.controller.pending import own_request
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import Datatype
from clockwork.state import ClockworkState, ModelState, PendingRequest
from clockwork.units import MILLISECOND, SECOND, Nanos

SERIES: Final = 10
"""Number of executions of a series. Estimates are computed from the last 10 executions."""

FIRST_PAUSE: Final[Nanos] = 250 * MILLISECOND
"""Pause after a model's first series. Each further pause is twice as long, unless a request succeeded recently."""

SHORT_PAUSE: Final = 4
"""Pause after a series if a request succeeded recently, relative to the time of the series."""

RECENT: Final[Nanos] = 60 * SECOND
"""Time for which a success counts as recent."""

MAX_PAUSE: Final[Nanos] = 60 * SECOND
"""Longest pause between two series."""

FRESH: Final[Nanos] = 250 * MILLISECOND
"""If a request for a model succeeded within this time, the model's estimates count as up to date."""

MAX_MODELS: Final = 256
"""Limit of the models with refused requests that are stored. The model with the oldest last refusal is forgotten first.
"""


class _Slow:
    """A model whose requests were refused. ``share`` and ``slo`` come from the last refused request."""

    def __init__(self, model: ModelState) -> None:
        self.model = model
        self.share: InferInput | None = None
        self.slo: Nanos = 0
        self.left = 0  #: number of executions that are left in the series
        self.series = 0  #: number of series so far
        self.spent: Nanos = 0  #: time of the executions of this series
        self.last_success: Nanos = 0  #: time of the model's last success, or 0
        self.not_before: Nanos = 0  #: time when the next series may begin


class Remeasuring:
    """The models whose requests were refused, and the execution that is under way."""

    def __init__(self, state: ClockworkState, config: ProfilingConfig) -> None:
        """Start without refused requests."""
        self._state = state
        self._config = config
        self._slow: dict[str, _Slow] = {}
        self._under_way: _Slow | None = None
        self._idle = False  #: whether the server was idle when this execution began
        self._not_before: Nanos = 0  #: time when the next execution may begin
        self.request: PendingRequest | None = None  #: the execution that is under way
        self.due = False  #: whether an execution waits for its turn

    def next_wakeup(self) -> Nanos | None:
        """Return when the next execution may begin."""
        return self._not_before if self.due else None

    def refused(self, now: Nanos, request: PendingRequest, last_success: Nanos) -> None:
        """Record that a client's request was refused because the device is too slow.

        ``last_success`` is the time of the model's last success, or 0.
        """
        if last_success and now - last_success < FRESH:
            return
        name = request.model.name
        slow = self._slow.pop(name, None)
        if slow is None or slow.model is not request.model:
            slow = _Slow(request.model)
            if len(self._slow) >= MAX_MODELS:
                del self._slow[next(iter(self._slow))]
        self._slow[name] = slow
        slow.last_success = last_success
        if slow.left or now < slow.not_before:
            return
        slow.share, slow.slo, slow.left = _generated(request.input), request.deadline - request.arrival, SERIES
        self._settle()

    def succeeded(self, request: PendingRequest) -> None:
        """Record that a client's request was executed in time."""
        slow = self._slow.get(request.model.name)
        if slow is not None and request.deadline - request.arrival <= slow.slo:
            self.forget(request.model)

    def forget(self, model: ModelState) -> None:
        """Forget a model that was removed."""
        self._slow.pop(model.name, None)
        self._settle()

    def begin(self, now: Nanos, request_id: int, *, idle: bool) -> PendingRequest | None:
        """Return the next execution, or None if no execution may begin yet."""
        if not self.due or now < self._not_before:
            return None
        slow = next(slow for slow in self._slow.values() if slow.left)
        assert slow.share is not None
        self._under_way, self._idle = slow, idle
        cold, slo = slow.model.name not in self._state.holders, self._config.live_slo
        self.request = own_request(now, request_id, slow.model, slow.share, None, slo, cold_start=cold)
        self._settle()
        return self.request

    def ended(self, now: Nanos, duration: Nanos | None) -> None:
        """Handle the end of the execution. ``duration`` is None if no device executed the request."""
        slow, self._under_way, self.request = self._under_way, None, None
        assert slow is not None
        if duration is None:
            self._not_before = now + self._config.live_retry
        else:
            self._not_before = now + (duration if self._idle else round(duration / self._config.live_share) - duration)
        fits = duration is not None and duration <= slow.slo
        slow.left = slow.left - 1 if fits and slow.left else 0
        slow.spent += duration or 0
        if not slow.left:
            slow.not_before = now + self._pause(now, slow)
            slow.series += 1
            slow.spent = 0
        self._settle()

    def _pause(self, now: Nanos, slow: _Slow) -> Nanos:
        if slow.last_success and now - slow.last_success < RECENT:
            return max(FIRST_PAUSE, SHORT_PAUSE * slow.spent)
        return min(MAX_PAUSE, FIRST_PAUSE << min(slow.series, 16))

    def _settle(self) -> None:
        self.due = self.request is None and any(slow.left for slow in self._slow.values())


def _generated(share: InferInput) -> InferInput:
    """Return inputs of the same shapes whose elements the worker generates."""
    tensors = tuple(
        replace(tensor, nbytes=0) if tensor.datatype == Datatype.BYTES else tensor for tensor in share.tensors
    )
    return replace(share, tensors=tensors, outputs=(), generated=True, arena_offset=-1)
