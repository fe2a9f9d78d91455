"""Estimates the offset between two clocks, and converts the times in messages from one clock to the other.

This side sends a Ping at time ``a`` of its clock. The peer receives the Ping at ``b`` and answers at ``c``, on the
peer's clock. The Pong arrives at ``d`` on this side's clock. The peer's clock is then ahead by ``((b - a) + (c - d)) /
2``. The error is at most half of the time for which both messages travelled: ``((d - a) - (c - b)) / 2`` (RFC 5905,
section 8).

The estimate is the recent sample with the smallest error bound. One fast round trip is more accurate than the average
of slow round trips. Because clocks drift, the error bound of a sample grows with its age, so a newer sample eventually
replaces the sample.

This module reads no clock. An offset is always the peer's clock minus this side's clock.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from clockwork.messages.actions import Action, EvictWeights, Infer, LoadModelFromDisk, LoadWeights
from clockwork.messages.results import (
    EvictWeightsResult,
    InferResult,
    LoadModelFromDiskResult,
    LoadWeightsResult,
    Result,
    Timing,
)
from clockwork.units import FOREVER, Nanos

WINDOW_SAMPLES: Final = 32
"""Number of most recent samples that are kept. With a Ping every 0.25 s, the samples cover 8 s.

A window of 8 s is long enough to contain a fast round trip even under load.
"""

DRIFT_PPM: Final = 100
"""Largest drift between two clocks, in parts per million. A clock's crystal is accurate to 50 parts per million."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: Nanos
    offset: Nanos
    error: Nanos

    def error_at(self, now: Nanos, drift_ppm: int) -> Nanos:
        return self.error + max(0, now - self.at) * drift_ppm // 1_000_000


class ClockOffset:
    """The estimated offset of a peer's clock.

    ``window`` is the number of samples that are kept. ``drift_ppm`` is the largest drift between the two clocks.
    """

    __slots__ = ("_best", "_drift_ppm", "_samples", "offset_ns")

    def __init__(self, *, window: int = WINDOW_SAMPLES, drift_ppm: int = DRIFT_PPM) -> None:
        self.offset_ns: Nanos = 0
        """The peer's clock minus this side's clock. The offset is 0 before the first sample."""
        self._samples: deque[_Sample] = deque(maxlen=window)
        self._best: _Sample | None = None
        self._drift_ppm = drift_ppm

    @property
    def samples(self) -> int:
        """Number of samples that are kept now."""
        return len(self._samples)

    def error_ns(self, now: Nanos) -> Nanos:
        """Return the largest possible error of `offset_ns`. The error is FOREVER before the first sample."""
        return self._best.error_at(now, self._drift_ppm) if self._best else FOREVER

    def add(self, *, ping_sent: Nanos, received: Nanos, pong_sent: Nanos, now: Nanos) -> None:
        """Add a sample: the times of a Ping and of its Pong, which arrived at ``now``.

        ``received`` and ``pong_sent`` are times on the peer's clock. A sample is ignored if its times are impossible.
        """
        on_the_way = (now - ping_sent) - (pong_sent - received)
        if on_the_way < 0 or pong_sent < received or now < ping_sent:
            return
        offset = ((received - ping_sent) + (pong_sent - now)) // 2
        self._samples.append(_Sample(now, offset, (on_the_way + 1) // 2))
        # The errors of all samples grow at the same rate, so the best sample changes only when a sample is added or
        # dropped.
        self._best = min(self._samples, key=lambda sample: sample.error_at(now, self._drift_ppm))
        self.offset_ns = self._best.offset


def shift_action(action: Action, by: Nanos) -> Action:
    """Convert the time window of an action to the worker's clock. The controller does this before it sends the action.

    ``by`` is the offset of the worker's clock. The values 0 and FOREVER are not changed, because these values mean that
    one side of the window is open.
    """
    if by == 0 or not isinstance(action, LoadModelFromDisk | LoadWeights | EvictWeights | Infer):
        return action
    return replace(action, earliest=shift_moment(action.earliest, by), latest=shift_moment(action.latest, by))


def shift_result(result: Result, by: Nanos) -> Result:
    """Convert the times of a result to the controller's clock. The controller does this when it receives the result.

    ``by`` is the negated offset of the worker's clock.
    """
    if by == 0:
        return result
    if isinstance(result, InferResult):
        return replace(
            result,
            copy_input=_shift_timing(result.copy_input, by),
            exec=_shift_timing(result.exec, by),
            copy_output=_shift_timing(result.copy_output, by),
        )
    if isinstance(result, LoadModelFromDiskResult | LoadWeightsResult | EvictWeightsResult):
        return replace(result, timing=_shift_timing(result.timing, by))
    return result


def shift_moment(moment: Nanos, by: Nanos) -> Nanos:
    """Convert ``moment`` to the other clock. The values 0 (always past) and FOREVER (never reached) are not changed."""
    if moment == 0 or moment == FOREVER:
        return moment
    return min(max(moment + by, 1), FOREVER - 1)


def _shift_timing(timing: Timing, by: Nanos) -> Timing:
    return Timing(shift_moment(timing.begin, by), shift_moment(timing.end, by), timing.duration)
