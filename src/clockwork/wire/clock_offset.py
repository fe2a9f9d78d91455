"""What time is it over there: the offset between two clocks, and messages moved from one to the other.

A Ping that left at ``a`` (our clock), was received at ``b`` and answered at ``c`` (theirs), and whose Pong came back at
``d`` (ours) says that their clock is ahead by ``((b - a) + (c - d)) / 2``, wrong by at most half of the time spent on
the way, ``((d - a) - (c - b)) / 2`` (RFC 5905, section 8). The estimate is the one sample of the last few whose bound
is the tightest *now*: a fast round trip beats the average of slow ones, until its age, during which the clocks drift
apart, has cost it more than it was better by.

Rules of the file: no clock is read; an offset is always *theirs minus ours*.
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
"""Samples remembered: 8 s of them at a Ping every 0.25 s, long enough to contain a fast one under load."""

DRIFT_PPM: Final = 100
"""How fast two clocks may move apart: crystals keep 50 ppm each."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: Nanos
    offset: Nanos
    error: Nanos

    def error_at(self, now: Nanos, drift_ppm: int) -> Nanos:
        return self.error + max(0, now - self.at) * drift_ppm // 1_000_000


class ClockOffset:
    """Estimates how far a peer's clock is ahead of ours.

    ``window`` is the number of samples remembered, ``drift_ppm`` the most that the clocks drift apart.
    """

    __slots__ = ("_best", "_drift_ppm", "_samples", "offset_ns")

    def __init__(self, *, window: int = WINDOW_SAMPLES, drift_ppm: int = DRIFT_PPM) -> None:
        self.offset_ns: Nanos = 0
        """The peer's clock minus ours; 0 as long as nothing is known."""
        self._samples: deque[_Sample] = deque(maxlen=window)
        self._best: _Sample | None = None
        self._drift_ppm = drift_ppm

    @property
    def samples(self) -> int:
        """How many samples are remembered."""
        return len(self._samples)

    def error_ns(self, now: Nanos) -> Nanos:
        """By how much `offset_ns` can be wrong at most; FOREVER as long as nothing is known."""
        return self._best.error_at(now, self._drift_ppm) if self._best else FOREVER

    def add(self, *, ping_sent: Nanos, received: Nanos, pong_sent: Nanos, now: Nanos) -> None:
        """A Pong came back at ``now``; ``received`` and ``pong_sent`` are the peer's clock.

        A Pong that claims to have been held for longer than it was away is nonsense, and ignored.
        """
        on_the_way = (now - ping_sent) - (pong_sent - received)
        if on_the_way < 0 or pong_sent < received or now < ping_sent:
            return
        offset = ((received - ping_sent) + (pong_sent - now)) // 2
        self._samples.append(_Sample(now, offset, (on_the_way + 1) // 2))
        # All samples age at one rate: which is the best changes only when one comes or goes.
        self._best = min(self._samples, key=lambda sample: sample.error_at(now, self._drift_ppm))
        self.offset_ns = self._best.offset


def shift_action(action: Action, by: Nanos) -> Action:
    """The action with its window moved: by the worker's offset, before a controller sends it.

    A window that is open from the beginning of time, or for ever, stays so.
    """
    if by == 0 or not isinstance(action, LoadModelFromDisk | LoadWeights | EvictWeights | Infer):
        return action
    return replace(action, earliest=shift_moment(action.earliest, by), latest=shift_moment(action.latest, by))


def shift_result(result: Result, by: Nanos) -> Result:
    """The result with its timings moved: by minus the worker's offset, when a controller receives it."""
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
    """A moment on the other clock. 0, always past, and FOREVER, never reached, are no moments and stay."""
    if moment == 0 or moment == FOREVER:
        return moment
    return min(max(moment + by, 1), FOREVER - 1)


def _shift_timing(timing: Timing, by: Nanos) -> Timing:
    return Timing(shift_moment(timing.begin, by), shift_moment(timing.end, by), timing.duration)
