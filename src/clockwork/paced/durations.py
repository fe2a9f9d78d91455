"""What a simulated device takes for a task: its model's profile, noise, and whatever a fault adds."""

from random import Random
from typing import Literal

from msgspec import Struct

from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.units import Nanos


class NoiseModel(Struct, frozen=True, forbid_unknown_fields=True):
    """How durations vary.

    ``kind``: "none"; "normal" with a standard deviation of ``share`` of the duration (never below half of it);
    "lognormal" with that share, a longer tail; "measured": the profile's samples, in the order in which they
    were measured, over and over: a host has slow minutes, and a draw would shuffle them away.
    """

    kind: Literal["none", "normal", "lognormal", "measured"] = "none"
    share: float = 0.0

    def draw(self, rng: Random, measurement: Measurement) -> Nanos:
        """A duration; of "measured" noise `DurationModel` takes care."""
        if self.kind == "none":
            return measurement.median if len(measurement.samples) > 1 else measurement.samples[0]
        base = measurement.median if len(measurement.samples) > 1 else measurement.samples[0]
        if self.kind == "normal":
            return max(base // 2, round(base * rng.gauss(1.0, self.share)))
        return round(base * rng.lognormvariate(0.0, self.share))


class DurationModel:
    """Durations on one device: by profile, with noise, times ``factor``, which faults change."""

    __slots__ = ("_begin", "_noise", "_places", "_rng", "factor")

    def __init__(self, noise: NoiseModel, rng: Random) -> None:
        """As fast as the profile says."""
        self._noise = noise
        self._rng = rng
        self._begin = rng.random()  #: where in all samples it begins, as a share
        self._places: dict[int, int] = {}  #: by the identity of a measurement: its next sample
        self.factor = 1.0

    def infer(self, profile: ModelProfile, rows: int) -> Nanos:
        """Executing ``rows`` rows: what the next batch size that was measured takes."""
        size = next((size for size in profile.infer if size >= rows), 0)
        if not size:
            largest = max(profile.infer)
            return round(self._draw(profile.infer[largest]) * rows / largest * self.factor)
        duration = self._draw(profile.infer[size])
        return duration if self.factor == 1.0 else round(duration * self.factor)

    def load(self, profile: ModelProfile) -> Nanos:
        """LoadWeights."""
        return round(self._draw(profile.load_weights) * self.factor)

    def _draw(self, measurement: Measurement) -> Nanos:
        if self._noise.kind != "measured":
            return self._noise.draw(self._rng, measurement)
        samples = measurement.samples
        place = self._places.get(id(measurement), int(self._begin * len(samples)))
        self._places[id(measurement)] = place + 1
        return samples[place % len(samples)]

    def chance(self) -> float:
        """A number in [0, 1) of the device's own."""
        return self._rng.random()
