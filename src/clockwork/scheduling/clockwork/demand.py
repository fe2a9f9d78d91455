"""Who asks for what, how often: a decaying count of requests per model, refused ones included."""

from math import exp

from clockwork.units import Nanos


class Demand:
    """Rates of models, in requests per nanosecond."""

    def __init__(self, window: Nanos) -> None:
        """``window`` is the time constant of the decay."""
        self._window = window
        self._counts: dict[str, tuple[float, Nanos]] = {}  #: model -> count, and when that was true

    def add(self, now: Nanos, model: str, requests: int = 1) -> None:
        """``requests`` more were asked of the model."""
        known = self._counts.get(model)
        count = 0.0 if known is None else known[0] * exp((known[1] - now) / self._window)
        self._counts[model] = (count + requests, now)

    def rate(self, now: Nanos, model: str) -> float:
        """Requests per nanosecond, of late."""
        known = self._counts.get(model)
        return 0.0 if known is None else known[0] * exp((known[1] - now) / self._window) / self._window

    def last(self, model: str) -> Nanos | None:
        """When the model was asked for last."""
        known = self._counts.get(model)
        return None if known is None else known[1]
