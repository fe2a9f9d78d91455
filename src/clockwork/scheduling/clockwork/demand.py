"""Measures the request rate of each model with a decaying count of its requests, including refused requests."""

from math import exp

from clockwork.units import Nanos


class Demand:
    """Request rates of models, in requests per nanosecond."""

    def __init__(self, window: Nanos) -> None:
        """Start without requests. ``window`` is the time constant of the decay."""
        self._window = window
        self._counts: dict[str, tuple[float, Nanos]] = {}  #: model -> count, and the time of that count

    def add(self, now: Nanos, model: str, requests: int = 1) -> None:
        """Count requests for the model."""
        known = self._counts.get(model)
        count = 0.0 if known is None else known[0] * exp((known[1] - now) / self._window)
        self._counts[model] = (count + requests, now)

    def forget(self, model: str) -> None:
        """Forget a model that was removed."""
        self._counts.pop(model, None)

    def rate(self, now: Nanos, model: str) -> float:
        """Return the model's request rate."""
        known = self._counts.get(model)
        return 0.0 if known is None else known[0] * exp((known[1] - now) / self._window) / self._window

    def last(self, model: str) -> Nanos | None:
        """Return the time of the last request for the model."""
        known = self._counts.get(model)
        return None if known is None else known[1]
