"""Defines paced models, and contains the profiles that Clockwork provides.

The profiles describe the ResNet-50 with which the original Clockwork was evaluated. The original's source code contains
two sets of measured times. ``resnet50-v100`` contains the times that the original's program ``check_model`` measured
after warm-up (OSDI'20 artifact). ``resnet50-v100-startup`` contains the times that the original's worker measured when
it started. The model's input has 602,112 bytes and its output has 4,000 bytes. The model's weights have 102,160,300
bytes, which are 7 pages of 16 MiB.
"""

from collections.abc import Mapping
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.results import DEFAULT_VERSION
from clockwork.messages.tensors import TensorInfo
from clockwork.paced.durations import NoiseModel
from clockwork.units import Bytes, Nanos, ms

MAX_BATCH: Final = 4096
"""Largest batch size that the profile of a paced model may contain."""

SAMPLES: Final = 100
"""Number of measurements in the profile of a model with varying durations."""


def constant_profile(load: Nanos, infer: Mapping[int, Nanos]) -> ModelProfile:
    """Return a profile whose durations do not vary."""
    sizes = {size: Measurement((infer[size],)) for size in sorted(infer)}
    return ModelProfile(Measurement((load,)), sizes, MAX_BATCH)


def _resnet50(load: float, *infer: float) -> ModelProfile:
    return constant_profile(ms(load), dict(zip((1, 2, 4, 8, 16), map(ms, infer), strict=True)))


PROFILES: Final[Mapping[str, ModelProfile]] = {
    "resnet50-v100": _resnet50(8.31, 2.73, 4.05, 5.88, 9.93, 17.33),
    "resnet50-v100-startup": _resnet50(8.37, 3.32, 5.27, 7.50, 12.44, 21.73),
}
"""Profiles by the name that scenarios use."""

RESNET50_BYTES: Final[Bytes] = 102_160_300


class PacedModel(Struct, frozen=True):
    """A model for paced devices, which load it as if it was read from a file.

    - ``read``: time that the worker needs to read the file
    - ``trial``: duration of the trial execution when a worker reads the file, if its devices have the times of
      ``profile``; 0 if there is no trial
    - ``first``: factors by which the first executions on each device take longer than later executions
    """

    path: str
    digest: str
    profile: ModelProfile
    weights_bytes: Bytes = RESNET50_BYTES
    inputs: tuple[TensorInfo, ...] = (TensorInfo("data", "FP32", (-1, 3, 224, 224)),)
    outputs: tuple[TensorInfo, ...] = (TensorInfo("prob", "FP32", (-1, 1000)),)
    batchable: bool = True
    version: str = DEFAULT_VERSION
    read: Nanos = 0
    trial: Nanos = 0
    first: tuple[float, ...] = ()


def scaled(profile: ModelProfile, factor: float) -> ModelProfile:
    """Return the profile with all durations multiplied by ``factor``."""

    def scale(measurement: Measurement) -> Measurement:
        return Measurement(tuple(round(sample * factor) for sample in measurement.samples))

    return replace(
        profile,
        load_weights=scale(profile.load_weights),
        infer={size: scale(measurement) for size, measurement in profile.infer.items()},
        first=tuple(round(duration * factor) for duration in profile.first),
    )


def measured(profile: ModelProfile, noise: NoiseModel, rng: Random) -> ModelProfile:
    """Return the profile that a measurement would give if the durations of ``profile`` varied by ``noise``."""
    if noise.kind in ("none", "measured"):
        return profile

    def measure(measurement: Measurement) -> Measurement:
        return Measurement(tuple(noise.draw(rng, measurement) for _ in range(SAMPLES)))

    infer = {size: measure(measurement) for size, measurement in profile.infer.items()}
    return replace(profile, load_weights=measure(profile.load_weights), infer=infer)
