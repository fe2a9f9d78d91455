"""The state of the measurement of a model on one kind of device while the server serves."""

from collections.abc import Sequence
from typing import NamedTuple

from clockwork.messages.profile import Measurement, ModelProfile, ProfileKey, count_slow_first
from clockwork.state import ModelState
from clockwork.units import Nanos


class PausedJob(NamedTuple):
    """The state of a job whose model was unloaded after it was ready."""

    size: int
    samples: list[Nanos]
    warmups: list[Nanos]
    first: tuple[Nanos, ...]
    short: bool
    measured: dict[int, Measurement]
    profile: ModelProfile


class Job:
    """The measurement of a model on one kind of device."""

    def __init__(self, model: ModelState, kind: str, shapes: list[tuple[tuple[int, ...], ...]]) -> None:
        """Begin with one row. ``shapes`` are the shapes of inputs to try."""
        self.model = model
        self.kind = kind
        self.shapes = shapes  #: the shapes of inputs to try; the first one is used
        self.size = 1
        self.samples: list[Nanos] = []
        self.warmups: list[Nanos] = []  #: durations of the warm-up executions of this batch size
        self.first: tuple[Nanos, ...] = ()  #: the slow first executions of one row
        self.short = False  #: whether a measured batch size has fewer samples than usual
        self.failures = 0
        self.tries = 0
        self.missed = 0  #: number of measurements that devices of another kind executed
        self.ready = False
        self.measured: dict[int, Measurement] = {}

    @property
    def key(self) -> ProfileKey:
        """The key of the profile that the job measures."""
        return ProfileKey(self.model.info.digest, self.model.info.runtime, self.kind)

    @property
    def bound(self) -> Nanos:
        """The bound of the batch size that is being measured."""
        return self.model.profiles[self.kind].infer_estimate(self.size)

    @property
    def spent(self) -> Nanos:
        """The time of all executions of the batch size that is being measured."""
        return sum(self.warmups) + sum(self.samples)

    def note_first(self, executions: Sequence[Nanos]) -> None:
        """Find the slow first executions. Other devices will be as slow at first.

        ``executions`` are the first executions of one row of the model's content. They may belong to an earlier load of
        the same content, because a device that has executed this load is not slow again.
        """
        slow = count_slow_first(executions, Measurement(tuple(self.samples)).median)
        self.first = tuple(executions[:slow]) if slow < len(executions) else ()

    def first_compared_to(self, one: Measurement) -> tuple[Nanos, ...]:
        """Return the slow first executions for a profile in which one row takes ``one``.

        While one row is being measured, ``one`` is a bound. The executions are then scaled to the bound. Otherwise,
        they would not look slow, but the scheduler may already know shorter times from another load of the content.
        """
        if 1 in self.measured or not self.first:
            return self.first
        usual = Measurement(tuple(self.samples)).median
        return tuple(round(duration * one.median / usual) for duration in self.first)
