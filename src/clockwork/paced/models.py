"""What a simulated model is, and the profiles that come with Clockwork.

The ResNet-50 of the original's evaluation, in both calibrations of its source: "warmed" is what its ``check_model``
measures (OSDI'20 artifact), "start-up" what a worker's start-up profile says. Input 602,112 bytes, output 4,000 bytes,
weights 102,160,300 bytes: 7 pages of 16 MiB.
"""

from collections.abc import Mapping
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.tensors import TensorInfo
from clockwork.paced.durations import NoiseModel
from clockwork.units import Bytes, Nanos, ms

MAX_BATCH: Final = 4096
"""A profile that is given counts as measured up to this: nothing larger is asked for."""

SAMPLES: Final = 100
"""Measurements in the profile of a simulated model whose durations vary."""


def constant_profile(load: Nanos, infer: Mapping[int, Nanos]) -> ModelProfile:
    """A profile of durations that do not vary."""
    sizes = {size: Measurement((infer[size],)) for size in sorted(infer)}
    return ModelProfile(Measurement((load,)), sizes, MAX_BATCH)


def _resnet50(load: float, *infer: float) -> ModelProfile:
    return constant_profile(ms(load), dict(zip((1, 2, 4, 8, 16), map(ms, infer), strict=True)))


PROFILES: Final[Mapping[str, ModelProfile]] = {
    "resnet50-v100": _resnet50(8.31, 2.73, 4.05, 5.88, 9.93, 17.33),
    "resnet50-v100-startup": _resnet50(8.37, 3.32, 5.27, 7.50, 12.44, 21.73),
}
"""By name, for scenarios."""

RESNET50_BYTES: Final[Bytes] = 102_160_300


class PacedModel(Struct, frozen=True):
    """A model file of a simulated worker."""

    path: str
    digest: str
    profile: ModelProfile
    weights_bytes: Bytes = RESNET50_BYTES
    inputs: tuple[TensorInfo, ...] = (TensorInfo("data", "FP32", (-1, 3, 224, 224)),)
    outputs: tuple[TensorInfo, ...] = (TensorInfo("prob", "FP32", (-1, 1000)),)
    batchable: bool = True


def scaled(profile: ModelProfile, factor: float) -> ModelProfile:
    """The profile of a model that takes ``factor`` times as long."""

    def scale(measurement: Measurement) -> Measurement:
        return Measurement(tuple(round(sample * factor) for sample in measurement.samples))

    return replace(
        profile,
        load_weights=scale(profile.load_weights),
        infer={size: scale(measurement) for size, measurement in profile.infer.items()},
    )


def measured(profile: ModelProfile, noise: NoiseModel, rng: Random) -> ModelProfile:
    """What measuring the model beforehand would give, where durations vary."""
    if noise.kind in ("none", "measured"):
        return profile

    def measure(measurement: Measurement) -> Measurement:
        return Measurement(tuple(noise.draw(rng, measurement) for _ in range(SAMPLES)))

    infer = {size: measure(measurement) for size, measurement in profile.infer.items()}
    return replace(profile, load_weights=measure(profile.load_weights), infer=infer)
