"""Tracks the actions that were sent to one device, and predicts when the device will be free.

A `Plan` uses these predictions. All times are times of the controller's clock.
"""

from collections.abc import Mapping
from typing import Final

from clockwork.messages.actions import LoadWeights
from clockwork.messages.results import Timing
from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.times import InferTimes
from clockwork.scheduling.estimates import FORGOTTEN, Estimates, Pace, SlidingEstimate
from clockwork.scheduling.shapes import ShapeKey
from clockwork.state import GPUState, ModelState, PendingRequest
from clockwork.units import MILLISECOND, Nanos

MAX_DELAY: Final[Nanos] = 20 * MILLISECOND
"""Limit of an estimated network delay. A longer measured delay counts as this limit."""


class SentInfer:
    """An Infer that was sent and has not ended."""

    __slots__ = ("earliest", "expected", "key", "model", "not_before", "requests", "rows", "sent_at")

    def __init__(
        self,
        model: ModelState,
        key: ShapeKey,
        requests: list[PendingRequest],
        *,
        rows: int,
        expected: Nanos,
        earliest: Nanos,
    ) -> None:
        """``expected`` is the estimated duration of the Infer.

        ``earliest`` is the start of the action's window.
        """
        self.model = model
        self.key = key
        self.requests = requests
        self.rows = rows
        self.expected = expected
        self.earliest = earliest
        self.sent_at: Nanos = 0
        self.not_before: Nanos = 0  #: the Infer cannot start before this time


class _SlowStart:
    """A model whose next executions on the device are slower than usual, because they are among the first."""

    __slots__ = ("executions", "factor", "refused_at")

    def __init__(self, factor: float, executions: int) -> None:
        self.factor = factor  #: duration of the slowest execution, as a multiple of the usual time
        self.executions = executions  #: number of slow executions
        self.refused_at: Nanos | None = None  #: time of the first refusal


class Device:
    """One device's outstanding actions, its measured times, and the network delays to and from the device."""

    def __init__(self, gpu: GPUState, config: ClockworkConfig, one_way: Nanos) -> None:
        """Start without actions. ``one_way`` is the first estimate of the network delay in each direction."""
        self.gpu = gpu
        self.times = InferTimes(gpu.kind, config.window)
        self._load_times = Estimates(config.window, Pace())
        self._slow: dict[str, _SlowStart] = {}  #: models whose next executions on this device are slow
        self.sent: dict[int, SentInfer] = {}  #: Infers by action id, in the order of sending
        self._sent_of: dict[str, int] = {}  #: model -> number of its Infers in `sent`; models without any are missing
        self.free: Nanos = 0  #: time at which the device will have executed all Infers that were sent
        self._last_end: Nanos = 0  #: end of the last Infer whose result is known
        self.ready: dict[str, Nanos] = {}  #: models whose weights are being loaded -> time at which the load will end
        self._last_load_end: Nanos = 0
        self.load_free: Nanos = 0  #: time at which all loads that were sent will have ended
        one_way = min(max(one_way, config.network_delay), MAX_DELAY)
        self.send_delay: Nanos = one_way  #: estimated delay of a message to the worker
        self.return_delay: Nanos = one_way  #: estimated delay of a result on its way back
        self._send_delays = SlidingEstimate(one_way, config.window)
        self._return_delays = SlidingEstimate(one_way, config.window)
        self.problem = ""  #: the last event that delayed the plan

    # --- times -------------------------------------------------------------------------------------------------------

    def infer_time(self, now: Nanos, model: ModelState, rows: int, key: ShapeKey) -> Nanos:
        """Return the estimated duration of an Infer."""
        time = self.times.of(now, model, rows, key)
        return self._slowed(model, time) if self._slow else time

    def infer_times(self, now: Nanos, model: ModelState, key: ShapeKey) -> Mapping[int, Nanos]:
        """Return the estimated durations of an Infer by batch size; see `InferTimes.by_size`."""
        times = self.times.by_size(now, model, key)
        if model.name not in self._slow:
            return times
        return {rows: self._slowed(model, time) for rows, time in times.items()}

    def _slowed(self, model: ModelState, time: Nanos) -> Nanos:
        slow = self._slow.get(model.name)
        return time if slow is None else round(time * slow.factor)

    def note_profile(self, model: ModelState) -> None:
        """Prepare for a model's slow first executions on this device, which the model's profile describes."""
        profile = model.profiles.get(self.gpu.kind)
        if profile is not None and len(profile.first) > self.gpu.executions(model.name):
            self._slow[model.name] = _SlowStart(profile.slow_start, len(profile.first))
        else:
            self._slow.pop(model.name, None)

    def note_refusal(self, now: Nanos, model: str) -> None:
        """Record that a request was refused.

        A slow start may be so long that the device never executes the model. So the slow start is ignored some time
        after its first refusal.
        """
        slow = self._slow.get(model)
        if slow is None:
            return
        if slow.refused_at is None:
            slow.refused_at = now
        elif now - slow.refused_at > FORGOTTEN:
            del self._slow[model]

    def load_time(self, now: Nanos, model: ModelState) -> Nanos:
        """Return the estimated duration of a LoadWeights."""
        kind = self.gpu.kind
        return self._load_times.of(model.info.digest, lambda: model.load_estimate(kind)).at(now)

    def forget_times(self, model: ModelState) -> None:
        """Forget the measured times of a model's content. The model's next estimates start from its profile."""
        self.times.forget(model.info.digest)
        self._load_times.forget(model.info.digest)

    def forget_model(self, model: str) -> None:
        """Forget a model that was removed."""
        self._slow.pop(model, None)

    def first_start(self, now: Nanos) -> Nanos:
        """Return the time at which an Infer that is sent now could start.

        The end of an overdue Infer is unknown. An Infer that is overdue by 2 ms is assumed to need another 2 ms.
        """
        free = self.free
        if self.sent:
            overdue = now - free - self.return_delay
            if overdue > 0:
                free = now + overdue
        return max(free, now + self.send_delay)

    def ready_at(self, now: Nanos, model: ModelState) -> Nanos:
        """Return the time at which the weights of the model would be on the device if a LoadWeights were sent now."""
        return max(self.load_free, now + self.send_delay) + self.load_time(now, model)

    def earliest_for(self, now: Nanos, start: Nanos) -> Nanos:
        """Return the ``earliest`` with which an Infer that is sent now keeps its place in the plan's order.

        A worker orders Infers by ``earliest``. If the weights of an Infer are still being loaded, a later Infer may be
        executed first.
        """
        if not self.sent:
            return now
        if any(name in self._sent_of for name in self.ready):
            return max(now, start)
        # the result is never before the ``earliest`` of an Infer that was sent earlier
        return max(now, next(reversed(self.sent.values())).earliest)

    # --- events ------------------------------------------------------------------------------------------------------

    def note_sent(self, now: Nanos, action_id: int, infer: SentInfer) -> None:
        """Record that an Infer was sent."""
        name = infer.model.name
        start = max(self.first_start(now), self.ready.get(name, 0))
        infer.sent_at, infer.not_before = now, max(infer.earliest, now + self.send_delay)
        self._sent_of[name] = self._sent_of.get(name, 0) + 1
        self.sent[action_id] = infer
        self.free = start + infer.expected

    def note_ended(self, now: Nanos, action_id: int, begin: Nanos, end: Nanos) -> SentInfer | None:
        """Record an Infer that was executed, with its duration.

        Return the Infer, or None if the scheduler did not send it.
        """
        sent = self._take_sent(action_id)
        if sent is None:
            return None
        if now - end > self.return_delay:
            self.problem = f"a result of {self.gpu} took {(now - end) / MILLISECOND:.3f} ms to arrive"
        waited = self._last_end > sent.sent_at or bool(self.ready)
        self._note_delays(now, None if waited else sent.sent_at, begin, end)
        slow = self._slow.get(sent.model.name)
        if slow is None:  # slow first executions show nothing about later executions
            self.times.add(now, sent.model, sent.rows, sent.key, end - begin)
        elif self.gpu.executions(sent.model.name) >= slow.executions:
            del self._slow[sent.model.name]
        if end - begin > sent.expected:
            self.problem = (
                f"Infer {action_id} of {sent.model.served_as} took {(end - begin) / MILLISECOND:.3f} ms "
                f"on {self.gpu} (estimate: {sent.expected / MILLISECOND:.3f} ms)"
            )
        self._update_free(end)
        return sent

    def note_failed(self, now: Nanos, action_id: int, reason: str) -> SentInfer | None:
        """Record that an Infer failed or was not executed.

        Return the Infer, or None if the scheduler did not send it.
        """
        sent = self._take_sent(action_id)
        if sent is not None:
            self.problem = f"Infer {action_id} of {sent.model.served_as} failed on {self.gpu}: {reason}"
            self._update_free(max(self._last_end, min(self.free, now)))
        return sent

    def note_load_sent(self, model: str, ready: Nanos) -> None:
        """Record that a LoadWeights was sent. The predicted end of the load is ``ready``."""
        self.ready[model] = self.load_free = ready

    def note_loaded(self, now: Nanos, action: LoadWeights, model: ModelState, timing: Timing) -> None:
        """Record that a LoadWeights has succeeded, and how long it took."""
        self._load_times.add(now, model.info.digest, timing.duration)
        waited = self._last_load_end > action.earliest
        self._note_delays(now, None if waited else action.earliest, timing.begin, timing.end)
        self._last_load_end = timing.end
        if timing.duration > action.expected_duration:
            self.problem = (
                f"LoadWeights {action.id} of {model.served_as} took {timing.duration / MILLISECOND:.3f} ms on "
                f"{self.gpu} "
                f"(estimate: {action.expected_duration / MILLISECOND:.3f} ms)"
            )
        if not self.ready:
            self.load_free = timing.end

    def reason_for_delay(self, now: Nanos) -> str:
        """Return a text about the device's late action.

        If no action is late, the text is about the device's last delay.

        The text is empty if nothing delayed the device.
        """
        for action_id, sent in self.sent.items():
            late = now - max(sent.not_before, self._last_end) - sent.expected
            if late > 0:
                return (
                    f"Infer {action_id} of {sent.model.served_as} is overdue on {self.gpu} by "
                    f"{late / MILLISECOND:.3f} ms (estimate: {sent.expected / MILLISECOND:.3f} ms)"
                )
            break
        for model, ready in self.ready.items():
            if now > ready:
                return f"LoadWeights of {model} is overdue on {self.gpu} by {(now - ready) / MILLISECOND:.3f} ms"
        return self.problem

    def _note_delays(self, now: Nanos, sent_at: Nanos | None, begin: Nanos, end: Nanos) -> None:
        """Measure the network delays of an action.

        ``sent_at`` is None if the action had to wait for other actions on the device.
        """
        if sent_at is not None:
            self._send_delays.add(min(max(begin - sent_at, 0), MAX_DELAY))
            self.send_delay = self._send_delays.value
        self._return_delays.add(min(max(now - end, 0), MAX_DELAY))
        self.return_delay = self._return_delays.value

    def _take_sent(self, action_id: int) -> SentInfer | None:
        sent = self.sent.pop(action_id, None)
        if sent is not None:
            name = sent.model.name
            left = self._sent_of[name] - 1
            if left:
                self._sent_of[name] = left
            else:
                del self._sent_of[name]
        return sent

    def _update_free(self, end: Nanos) -> None:
        """Compute `free` again after an Infer has ended at ``end``."""
        self._last_end = at = max(end, self._last_end)
        for sent in self.sent.values():
            at = max(at, sent.not_before, self.ready.get(sent.model.name, 0)) + sent.expected
        self.free = at
