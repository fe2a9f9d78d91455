"""Comparisons of predicted and actual times of actions, for clients and people."""

from msgspec import Struct

from clockwork.units import Nanos


class ErrorSummary(Struct, frozen=True, array_like=True):
    """The errors of predictions in nanoseconds, as positive numbers.

    ``over`` counts predictions that were later or longer than the actual time, ``under`` those that were sooner or
    shorter. The rest of ``count`` was exact. Percentiles and maxima are given for each side; the percentiles are
    rounded up to a bucket of a histogram.
    """

    count: int = 0
    over: int = 0
    over_p50: Nanos = 0
    over_p99: Nanos = 0
    over_max: Nanos = 0
    under: int = 0
    under_p50: Nanos = 0
    under_p99: Nanos = 0
    under_max: Nanos = 0


class PredictionSummary(Struct, frozen=True, array_like=True):
    """Predictions for one kind of action: of its start, its duration, and its completion.

    ``within`` counts the actions that took at most their expected duration, out of ``duration.count``. ``failed``
    counts the actions that failed, which no other field counts. Actions without an expected duration count in ``start``
    only. ``expected_over_actual`` is the sum of expected durations divided by the sum of actual ones.
    """

    start: ErrorSummary
    duration: ErrorSummary
    completion: ErrorSummary
    within: int = 0
    failed: int = 0
    expected_over_actual: float = 0.0
