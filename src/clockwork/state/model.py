"""A served model: what it is, and what it costs on each kind of device."""

from collections import deque
from typing import Final

from msgspec.structs import replace

from clockwork.messages.profile import MIN_SAMPLES, Measurement, ModelProfile
from clockwork.messages.results import ModelInfo
from clockwork.state.prediction import OF_A_MODEL, Predictions
from clockwork.units import Nanos

RECENT: Final = 1000
"""Durations remembered of each thing."""


class ModelState:
    """One model. ``profiles`` maps a device's kind to the model's times as measured before serving.

    ``unbatched`` is why requests are executed apart from each other; empty: they may share a batch.
    """

    __slots__ = ("_recent", "flexible", "info", "name", "predictions", "profiles", "unbatched")

    def __init__(self, info: ModelInfo) -> None:
        """A model that nothing is measured of yet."""
        self.info = info
        self.name = info.name
        #: whether requests may differ in more than their first dimension
        self.flexible = any(-1 in tensor.shape[1 if info.batchable else 0 :] for tensor in info.inputs)
        self.profiles: dict[str, ModelProfile] = {}
        self.unbatched = ""
        self.predictions = Predictions(OF_A_MODEL)  #: of its actions on all devices
        self._recent: dict[tuple[str, int], deque[Nanos]] = {}  #: (kind, batch size; 0: LoadWeights)

    def took(self, kind: str, batch_size: int, duration: Nanos) -> None:
        """An Infer of that many rows took so long in service; LoadWeights for a batch size of 0."""
        recent = self._recent.get((kind, batch_size))
        if recent is None:
            recent = self._recent[kind, batch_size] = deque(maxlen=RECENT)
        recent.append(duration)

    def recent(self, kind: str) -> ModelProfile:
        """The profile, with what was measured in service in the place of what was measured before, where it is enough.

        Raises:
            KeyError: nothing was measured on such a device.
        """
        profile = self.profiles[kind]
        enough = {
            size: Measurement(tuple(it))
            for (of, size), it in self._recent.items()
            if of == kind and len(it) >= MIN_SAMPLES
        }
        load = enough.pop(0, profile.load_weights)
        return replace(profile, load_weights=load, infer=dict(sorted((profile.infer | enough).items())))

    def stop_batching(self, reason: str) -> None:
        """Execute requests apart from each other from now on; the profiles remember that, with the reason."""
        self.unbatched = reason
        for kind, profile in self.profiles.items():
            self.profiles[kind] = replace(profile, unbatched=reason)

    @property
    def max_batch_size(self) -> int:
        """The most rows that an Infer of several requests may have; 1: each request has an Infer of its own."""
        return 1 if self.unbatched else self.max_rows

    @property
    def max_rows(self) -> int:
        """The most rows that one request may have: the largest batch size measured on every kind of device."""
        if not self.info.batchable or not self.profiles:
            return 1
        return min(profile.batch_sizes[-1] for profile in self.profiles.values())

    def infer_estimate(self, batch_size: int, kind: str | None = None) -> Nanos:
        """p99 of executing ``batch_size`` rows on a device of ``kind``, or on the fastest kind known.

        Raises:
            KeyError: nothing was measured on such a device.
        """
        if kind is not None:
            return self.profiles[kind].infer_estimate(batch_size)
        if not self.profiles:
            raise KeyError(self.name)
        return min(profile.infer_estimate(batch_size) for profile in self.profiles.values())

    def load_estimate(self, kind: str) -> Nanos:
        """p99 of LoadWeights on a device of ``kind``.

        Raises:
            KeyError: nothing was measured on such a device.
        """
        return self.profiles[kind].load_weights.p99
