"""What was predicted of actions, held against what they did; for clients and people."""

from msgspec import Struct

from clockwork.units import Nanos


class ErrorSummary(Struct, frozen=True, array_like=True):
    """How wrong predictions were, actual minus predicted; nanoseconds, all of them positive.

    ``over`` counts those that said later, or longer, than it was, ``under`` those that said sooner or shorter; the rest
    of ``count`` was right. Percentiles are of the errors on that side, to the next bucket of their histogram.
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
    """Predictions of one kind of action: of when it begins, how long it takes, and when it ends.

    ``within`` counts those that took no longer than was expected, of ``duration.count``. ``failed`` actions count
    nowhere else; those that no duration was expected of count in ``start`` only. ``expected_over_actual`` is the mean
    of expected durations in multiples of the actual ones.
    """

    start: ErrorSummary
    duration: ErrorSummary
    completion: ErrorSummary
    within: int = 0
    failed: int = 0
    expected_over_actual: float = 0.0
