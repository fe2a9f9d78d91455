"""Computes the durations of a paced device's tasks from the model's profile, noise, and the slowdown by faults."""

from random import Random
from typing import Final, Literal

from msgspec import Struct

from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.units import Nanos

MIN_FACTOR: Final = 0.01
MAX_FACTOR: Final = 100.0
"""`MIN_FACTOR` and `MAX_FACTOR` limit by how much the usual times of a device differ from the profile."""


class NoiseModel(Struct, frozen=True, forbid_unknown_fields=True):
    """Describes how durations vary.

    ``kind`` is one of these:

    - "none": a duration is always the median
    - "normal": a normal distribution around the median with a standard deviation of ``share`` times the median; no
      duration is less than half of the median
    - "lognormal": a lognormal distribution with the same ``share``, which has a longer tail
    - "measured": the profile's samples in the order of their measurement, repeated from the start. In this way, slow
      minutes of a host are reproduced. Random draws would not reproduce them.
    """

    kind: Literal["none", "normal", "lognormal", "measured"] = "none"
    share: float = 0.0

    def draw(self, rng: Random, measurement: Measurement) -> Nanos:
        """Draw a duration. The kind "measured" is implemented in `DurationModel`."""
        if self.kind == "none":
            return measurement.median if len(measurement.samples) > 1 else measurement.samples[0]
        base = measurement.median if len(measurement.samples) > 1 else measurement.samples[0]
        if self.kind == "normal":
            return max(base // 2, round(base * rng.gauss(1.0, self.share)))
        return round(base * rng.lognormvariate(0.0, self.share))


class DurationModel:
    """Durations on one device. The durations are taken from the profile, with noise, and multiplied by ``factor``.

    ``usual_factor`` is the factor without faults. It is above 1 for a device that is slower than that of the profile.
    """

    __slots__ = ("_begin", "_noise", "_places", "_rng", "factor", "usual_factor")

    def __init__(self, noise: NoiseModel, rng: Random, usual_factor: float = 1.0) -> None:
        """Start with the usual factor."""
        self._noise = noise
        self._rng = rng
        self._begin = rng.random()  #: where in the samples this device begins: 0 is the start, 1 the end
        self._places: dict[int, int] = {}  #: index of the next sample, by the identity of the measurement
        self.factor = self.usual_factor = usual_factor

    def infer(self, profile: ModelProfile, rows: int) -> Nanos:
        """Return the duration of an Infer with ``rows`` rows.

        If the profile lacks this batch size, the duration of the next larger size is returned.
        """
        size = next((size for size in profile.infer if size >= rows), 0)
        if not size:
            largest = max(profile.infer)
            return round(self._draw(profile.infer[largest]) * rows / largest * self.factor)
        duration = self._draw(profile.infer[size])
        return duration if self.factor == 1.0 else round(duration * self.factor)

    def load(self, profile: ModelProfile) -> Nanos:
        """Return the duration of a LoadWeights."""
        return round(self._draw(profile.load_weights) * self.factor)

    def _draw(self, measurement: Measurement) -> Nanos:
        if self._noise.kind != "measured":
            return self._noise.draw(self._rng, measurement)
        samples = measurement.samples
        place = self._places.get(id(measurement), int(self._begin * len(samples)))
        self._places[id(measurement)] = place + 1
        return samples[place % len(samples)]

    def chance(self) -> float:
        """Draw a random number in [0, 1) from the device's own generator."""
        return self._rng.random()
