"""Defines an action that the controller has sent, with its prediction and its result."""

from clockwork.messages.actions import DeviceAction, EvictWeights
from clockwork.messages.results import Result
from clockwork.units import Nanos


class SentAction:
    """An action that was sent to a device. ``device`` is the device's label.

    ``expected_begin`` is the predicted start, or 0 if there was no prediction. ``result`` is None until the result has
    arrived. ``arrived`` is the time when the result arrived, and ``number`` counts the results. ``ids`` are the public
    ids of the first requests of an Infer. ``deadlines`` are the deadlines of all its requests.
    """

    __slots__ = ("action", "arrived", "deadlines", "device", "expected_begin", "ids", "number", "result", "sent")

    def __init__(self, sent: Nanos, device: str, action: DeviceAction, expected_begin: Nanos) -> None:
        """Create an action without a result, which was sent at the time ``sent``."""
        self.sent = sent
        self.device = device
        self.action = action
        self.expected_begin = expected_begin
        self.result: Result | None = None
        self.arrived: Nanos = 0
        self.number = 0
        self.ids: tuple[str, ...] = ()
        self.deadlines: tuple[Nanos, ...] = ()

    @property
    def expected(self) -> Nanos:
        """The estimate of the duration, or 0 if there is none."""
        return 0 if isinstance(self.action, EvictWeights) else self.action.expected_duration
