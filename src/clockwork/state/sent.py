"""Defines an action that the controller has sent, with its prediction and its result."""

from clockwork.messages.actions import Infer, LoadWeights
from clockwork.messages.results import Result
from clockwork.units import Nanos


class SentAction:
    """An action that was sent to a device. ``device`` is the device's label.

    ``expected_begin`` is the predicted start, or 0 if there was no prediction. ``result`` is None until the result has
    arrived. ``arrived`` is the time when the result arrived.
    """

    __slots__ = ("action", "arrived", "device", "expected_begin", "result", "sent")

    def __init__(self, sent: Nanos, device: str, action: Infer | LoadWeights, expected_begin: Nanos) -> None:
        """Create an action without a result, which was sent at the time ``sent``."""
        self.sent = sent
        self.device = device
        self.action = action
        self.expected_begin = expected_begin
        self.result: Result | None = None
        self.arrived: Nanos = 0
