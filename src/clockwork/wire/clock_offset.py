"""Estimates the offset between two clocks, and converts the times in messages from one clock to the other.

A Ping leaves at ``a`` (our clock). The peer receives it at ``b`` and answers at ``c`` (the peer's clock), and the Pong
arrives at ``d`` (our clock). The peer's clock is then ahead by ``((b - a) + (c - d)) / 2``. The error is at most half
of the time spent on the way, ``((d - a) - (c - b)) / 2`` (RFC 5905, section 8). The estimate is the recent sample with
the smallest error bound *now*. A fast round trip is better than the average of slow ones, until clock drift since then
has made its bound larger than that of a newer sample.

Rules of the file: no clock is read; an offset is always *the peer's clock minus ours*.
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
"""Samples remembered: 8 s at a Ping every 0.25 s, long enough to contain a fast round trip under load."""

DRIFT_PPM: Final = 100
"""Maximum drift between two clocks: the crystal of each is accurate to 50 ppm."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: Nanos
    offset: Nanos
    error: Nanos

    def error_at(self, now: Nanos, drift_ppm: int) -> Nanos:
        return self.error + max(0, now - self.at) * drift_ppm // 1_000_000


class ClockOffset:
    """Estimates how far a peer's clock is ahead of ours.

    ``window`` is the number of samples remembered, ``drift_ppm`` the maximum drift between the clocks.
    """

    __slots__ = ("_best", "_drift_ppm", "_samples", "offset_ns")

    def __init__(self, *, window: int = WINDOW_SAMPLES, drift_ppm: int = DRIFT_PPM) -> None:
        self.offset_ns: Nanos = 0
        """The peer's clock minus ours; 0 before the first sample."""
        self._samples: deque[_Sample] = deque(maxlen=window)
        self._best: _Sample | None = None
        self._drift_ppm = drift_ppm

    @property
    def samples(self) -> int:
        """Number of samples remembered."""
        return len(self._samples)

    def error_ns(self, now: Nanos) -> Nanos:
        """Maximum error of `offset_ns`; FOREVER before the first sample."""
        return self._best.error_at(now, self._drift_ppm) if self._best else FOREVER

    def add(self, *, ping_sent: Nanos, received: Nanos, pong_sent: Nanos, now: Nanos) -> None:
        """Add the sample of a Pong that arrived at ``now``; ``received`` and ``pong_sent`` are of the peer's clock.

        A sample is ignored if the peer claims to have held the Ping for longer than the whole round trip.
        """
        on_the_way = (now - ping_sent) - (pong_sent - received)
        if on_the_way < 0 or pong_sent < received or now < ping_sent:
            return
        offset = ((received - ping_sent) + (pong_sent - now)) // 2
        self._samples.append(_Sample(now, offset, (on_the_way + 1) // 2))
        # All samples age at the same rate, so the best one changes only when a sample is added or dropped.
        self._best = min(self._samples, key=lambda sample: sample.error_at(now, self._drift_ppm))
        self.offset_ns = self._best.offset


def shift_action(action: Action, by: Nanos) -> Action:
    """Return the action with its window moved by ``by``, the worker's offset, before a controller sends it.

    An end of the window that is open (0 or FOREVER) stays open.
    """
    if by == 0 or not isinstance(action, LoadModelFromDisk | LoadWeights | EvictWeights | Infer):
        return action
    return replace(action, earliest=shift_moment(action.earliest, by), latest=shift_moment(action.latest, by))


def shift_result(result: Result, by: Nanos) -> Result:
    """Return the result with its timings moved by ``by``, minus the worker's offset, when a controller receives it."""
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
    """Return the moment on the other clock. 0 (always past) and FOREVER (never reached) are returned unchanged."""
    if moment == 0 or moment == FOREVER:
        return moment
    return min(max(moment + by, 1), FOREVER - 1)


def _shift_timing(timing: Timing, by: Nanos) -> Timing:
    return Timing(shift_moment(timing.begin, by), shift_moment(timing.end, by), timing.duration)
