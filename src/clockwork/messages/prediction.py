"""Comparisons of the predicted times of actions with their actual times.

The server's status contains these comparisons.
"""

from msgspec import Struct

from clockwork.units import Nanos


class ErrorSummary(Struct, frozen=True, array_like=True):
    """The errors of predictions in nanoseconds. No value is negative.

    ``over`` is the number of predictions that were later or longer than the actual time. ``under`` is the number of
    predictions that were earlier or shorter. All remaining predictions in ``count`` were exact. Both directions have
    their own percentiles and maxima. Percentiles are rounded up to the end of a histogram's bucket.
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
    """The errors of the predicted starts, durations and completions of one kind of action.

    ``within`` is the number of actions that took at most their expected duration. ``failed`` is the number of actions
    that failed. All fields except ``failed`` ignore failed actions. Actions without an expected duration are included
    only in ``start``. ``expected_over_actual`` is the sum of the expected durations divided by the sum of the actual
    durations.
    """

    start: ErrorSummary
    duration: ErrorSummary
    completion: ErrorSummary
    within: int = 0
    failed: int = 0
    expected_over_actual: float = 0.0
