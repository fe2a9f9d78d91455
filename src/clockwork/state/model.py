"""A served model, and its measured times on each kind of device."""

from collections import deque
from typing import Final

from msgspec.structs import replace

from clockwork.messages.actions import InferInput
from clockwork.messages.profile import MIN_SAMPLES, Measurement, ModelProfile
from clockwork.messages.results import ModelInfo
from clockwork.state.prediction import OF_A_MODEL, Predictions
from clockwork.units import Nanos

MAX_RECENT: Final = 1000
"""Limit of the durations that are stored while serving, for each batch size and for LoadWeights."""


class ModelState:
    """A served model. ``profiles`` maps a kind of device to the times that were measured before serving.

    ``unbatched`` is the reason why each request is executed alone; if it is empty, requests may share a batch.
    """

    __slots__ = (
        "_recent",
        "flexible",
        "info",
        "name",
        "optional",
        "predictions",
        "profiles",
        "served_as",
        "unbatched",
        "version",
    )

    def __init__(self, info: ModelInfo) -> None:
        """Create a model without measurements."""
        self.info = info
        self.name = info.name
        #: the name in clients' requests; ``name`` may be NAME/VERSION if several versions of a model are loaded
        self.served_as = info.name.partition("/")[0]
        self.version = info.version  #: the version under which clients know the model

        #: names of the inputs with a default; a request that sends one of them is executed alone
        self.optional = frozenset([tensor.name for tensor in info.inputs if tensor.optional])
        #: whether the shapes of requests' inputs may differ in more than the first dimension
        self.flexible = bool(self.optional) or any(
            -1 in tensor.shape[1 if info.batchable else 0 :] for tensor in info.inputs
        )
        self.profiles: dict[str, ModelProfile] = {}
        self.unbatched = ""
        self.predictions = Predictions(OF_A_MODEL)  #: errors of the predictions of its actions on all devices

        #: durations by (kind, batch size); batch size 0 means LoadWeights
        self._recent: dict[tuple[str, int], deque[Nanos]] = {}

    def is_alone(self, share: InferInput) -> bool:
        """Return whether a request sends an optional input. Such a request is executed alone.

        One reason is that requests of a batch may send different values for this input. Also, the trial of batches used
        the default value.
        """
        return bool(self.optional) and any(tensor.name in self.optional for tensor in share.tensors)

    def took(self, kind: str, batch_size: int, duration: Nanos) -> None:
        """Store the duration of an Infer that was executed while serving. A ``batch_size`` of 0 means a LoadWeights."""
        recent = self._recent.get((kind, batch_size))
        if recent is None:
            recent = self._recent[kind, batch_size] = deque(maxlen=MAX_RECENT)
        recent.append(duration)

    def executed_first(self, kind: str, shapes: tuple[tuple[int, ...], ...], duration: Nanos) -> None:
        """Replace the assumed time of a model that was not measured with the time of the first request.

        ``shapes`` are the shapes of the request's inputs.
        """
        profile = self.profiles[kind]
        first = 1 if self.info.batchable else 0
        measured = {1: Measurement((duration,))}
        shapes = tuple([shape[first:] for shape in shapes])
        self.profiles[kind] = replace(profile, infer=measured, input_shapes=shapes, unmeasured="")

    def recent_loads(self, kind: str) -> tuple[Nanos, ...]:
        """Return the last durations of LoadWeights actions while serving, on a kind of device, in order."""
        return tuple(self._recent.get((kind, 0), ()))

    def recent(self, kind: str) -> ModelProfile:
        """Return the profile, updated with recent measurements.

        If at least `MIN_SAMPLES` durations were measured while serving, they replace the profile's times.

        Raises:
            KeyError: the model was not measured on this kind of device.
        """
        profile = self.profiles[kind]
        enough = {
            size: Measurement(tuple(durations))
            for (device_kind, size), durations in self._recent.items()
            if device_kind == kind and len(durations) >= MIN_SAMPLES
        }
        load = enough.pop(0, profile.load_weights)
        return replace(profile, load_weights=load, infer=dict(sorted((profile.infer | enough).items())))

    def stop_batching(self, reason: str) -> None:
        """Execute each request alone from now on, and store the reason in the profiles."""
        self.unbatched = reason
        for kind, profile in self.profiles.items():
            self.profiles[kind] = replace(profile, unbatched=reason)

    @property
    def max_batch_size(self) -> int:
        """Largest number of rows of an Infer with several requests.

        If the number is 1, each request has its own Infer.
        """
        return 1 if self.unbatched else self.max_rows

    @property
    def max_rows(self) -> int:
        """Largest number of rows of one request.

        This is the largest batch size that was measured on all kinds of devices.
        """
        if not self.info.batchable or not self.profiles:
            return 1
        return min(profile.batch_sizes[-1] for profile in self.profiles.values())

    def infer_estimate(self, batch_size: int, kind: str | None = None) -> Nanos:
        """Return the p99 of the time for ``batch_size`` rows on a device of ``kind``, or on the fastest kind (None).

        Raises:
            KeyError: the model was not measured on this kind of device.
        """
        if kind is not None:
            return self.profiles[kind].infer_estimate(batch_size)
        if not self.profiles:
            raise KeyError(self.name)
        return min(profile.infer_estimate(batch_size) for profile in self.profiles.values())

    def load_estimate(self, kind: str) -> Nanos:
        """Return the p99 of the time of a LoadWeights on a device of ``kind``.

        Raises:
            KeyError: the model was not measured on this kind of device.
        """
        return self.profiles[kind].load_weights.p99
