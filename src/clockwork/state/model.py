"""A served model: what it is, and what it costs on each kind of device."""

from clockwork.messages.profile import ModelProfile
from clockwork.messages.results import ModelInfo
from clockwork.units import Nanos


class ModelState:
    """One model. ``profiles`` maps a device's kind to the model's measured times there."""

    __slots__ = ("flexible", "info", "name", "profiles")

    def __init__(self, info: ModelInfo) -> None:
        """A model that nothing is measured of yet."""
        self.info = info
        self.name = info.name
        #: whether requests may differ in more than their first dimension
        self.flexible = any(-1 in tensor.shape[1 if info.batchable else 0 :] for tensor in info.inputs)
        self.profiles: dict[str, ModelProfile] = {}

    @property
    def max_batch_size(self) -> int:
        """The most rows that one Infer may have: the largest batch size measured on every kind of device."""
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
