"""Predicts when actions start and end, and counts the errors of these predictions.

Theory of operation. A prediction is made when an action is sent. The scheduler may predict the start. By default, the
predicted start is the end of the earlier actions in the same lane. If the duration of an action is unknown, there are
no predictions for later actions in the lane until the action ends. The error is counted when the result arrives. *Over*
means that the prediction was later or longer than the actual value, and *under* means the opposite. Errors are counted
in histograms, so that memory does not grow. A histogram of a device's errors has buckets that are one per cent wide. A
histogram of a model's errors has buckets that are ten per cent wide, because there are many models.
"""

from collections.abc import Iterator
from typing import Final

from clockwork.histogram import Histogram, add_to_both
from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.results import Timing
from clockwork.units import Nanos

OF_A_DEVICE: Final = 1
OF_A_MODEL: Final = 10
"""`OF_A_DEVICE` and `OF_A_MODEL` are the widths of the histograms' buckets in per cent."""


class StartPredictor:
    """Predicts when the actions of one lane of a device start."""

    __slots__ = ("_base", "_least", "_predicted", "_unknown", "_work")

    def __init__(self) -> None:
        """Start without outstanding actions."""
        #: action id -> predicted begin and duration; 0 if not predicted
        self._predicted: dict[int, tuple[Nanos, Nanos]] = {}
        self._base: Nanos = 0  #: time at which the work in `_work` begins
        self._work: Nanos = 0  #: sum of the expected durations of the outstanding actions
        self._least: Nanos = 0  #: earliest end of the action that was sent last
        self._unknown = 0  #: number of outstanding actions whose duration is unknown

    def sent(self, action_id: int, earliest: Nanos, expected: Nanos, start: Nanos = 0) -> None:
        """Record that an action is sent. ``start`` is the scheduler's prediction of its start, or 0."""
        if not self._predicted:
            begin = self._base = start or earliest
            self._work = 0
        elif start or not self._unknown:
            begin = start or max(earliest, self._base + self._work, self._least)
        else:
            begin = 0
        self._predicted[action_id] = begin, expected
        if expected:
            self._work += expected
            self._least = earliest + expected
        else:
            self._unknown += 1

    def ended(self, action_id: int, end: Nanos | None) -> tuple[Nanos, Nanos] | None:
        """Record that an action has ended at ``end``, or has failed if ``end`` is None.

        Return the action's predicted start and duration, with 0 for a value that was not predicted. Return None if the
        action was never sent.
        """
        predicted = self._predicted.pop(action_id, None)
        if predicted is None:
            return None
        if predicted[1]:
            self._work -= predicted[1]
        else:
            self._unknown -= 1
        if end is not None:
            self._base = end
        return predicted

    def begin_of(self, action_id: int) -> Nanos | None:
        """Return the predicted start of an outstanding action, or None."""
        begin, _ = self._predicted.get(action_id, (0, 0))
        return begin or None

    def end_of(self, action_id: int) -> Nanos:
        """Return the predicted end of an outstanding action, or 0 if there is no prediction."""
        begin, expected = self._predicted.get(action_id, (0, 0))
        return begin + expected if begin and expected else 0

    def __len__(self) -> int:
        return len(self._predicted)


class Errors:
    """The prediction errors of one quantity, such as the duration."""

    __slots__ = ("over", "right", "under")

    def __init__(self, width: int) -> None:
        """Start empty. ``width`` is the width of the histograms' buckets in per cent."""
        self.right = 0
        self.over = Histogram(width)
        self.under = Histogram(width)

    def merge(self, other: "Errors") -> None:
        """Add the counts of another object."""
        self.right += other.right
        self.over.merge(other.over)
        self.under.merge(other.under)

    def summary(self) -> ErrorSummary:
        """Return the counts and percentiles of the errors."""
        over, under = self.over, self.under
        return ErrorSummary(
            self.right + over.count + under.count,
            over.count,
            over.percentile(50) or 0,
            over.percentile(99) or 0,
            over.longest,
            under.count,
            under.percentile(50) or 0,
            under.percentile(99) or 0,
            under.longest,
        )


class ActionErrors:
    """Errors of the predictions for one kind of action: errors of start, duration and completion."""

    __slots__ = ("completion", "duration", "failed", "ratios", "start")

    def __init__(self, width: int) -> None:
        """Start empty. ``width`` is the width of the histograms' buckets in per cent."""
        self.start = Errors(width)
        self.duration = Errors(width)
        self.completion = Errors(width)
        self.failed = 0
        self.ratios = 0.0  #: sum of the ratios of expected to actual durations

    def merge(self, other: "ActionErrors") -> None:
        """Add the counts of another object."""
        self.start.merge(other.start)
        self.duration.merge(other.duration)
        self.completion.merge(other.completion)
        self.failed += other.failed
        self.ratios += other.ratios

    def summary(self) -> PredictionSummary:
        """Return the errors as the status reports them."""
        start, duration, completion = self.start.summary(), self.duration.summary(), self.completion.summary()
        count = duration.count
        mean = self.ratios / count if count else 0.0
        return PredictionSummary(start, duration, completion, count - duration.under, self.failed, mean)


class Predictions:
    """Errors of the predictions for one device or one model, by the kind of action."""

    __slots__ = ("_by_kind", "_width")

    def __init__(self, width: int = OF_A_DEVICE) -> None:
        """Start empty. ``width`` is the width of the histograms' buckets in per cent."""
        self._width = width
        self._by_kind: dict[str, ActionErrors] = {}

    def of(self, kind: str) -> ActionErrors:
        """Return the errors of one kind of action, which is ``load`` or ``infer``."""
        errors = self._by_kind.get(kind)
        if errors is None:
            errors = self._by_kind[kind] = ActionErrors(self._width)
        return errors

    def merge(self, other: "Predictions") -> None:
        """Add the counts of a second device."""
        for kind, errors in other:
            self.of(kind).merge(errors)

    def summary(self) -> dict[str, PredictionSummary]:
        """Return the errors as the status reports them, with ``infer`` before ``load``."""
        return {kind: errors.summary() for kind, errors in self}

    def __iter__(self) -> Iterator[tuple[str, ActionErrors]]:
        return iter(sorted(self._by_kind.items()))


def compare(predicted: tuple[Nanos, Nanos], timing: Timing | None, device: ActionErrors, model: ActionErrors) -> None:
    """Count the errors of an action's predictions for its device and for its model.

    ``predicted`` contains the predicted start and duration, where 0 means no prediction. ``timing`` is None if the
    action failed.
    """
    if timing is None:
        device.failed += 1
        model.failed += 1
        return
    begin, expected = predicted
    if begin:
        _count(timing.begin - begin, device.start, model.start)
    if expected:
        _count(timing.duration - expected, device.duration, model.duration)
        ratio = expected / max(1, timing.duration)
        device.ratios += ratio
        model.ratios += ratio
        if begin:
            _count(timing.end - begin - expected, device.completion, model.completion)


def _count(error: Nanos, device: Errors, model: Errors) -> None:
    """Count an error, which is the actual value minus the predicted value."""
    if error > 0:
        add_to_both(error, device.under, model.under)
    elif error:
        add_to_both(-error, device.over, model.over)
    else:
        device.right += 1
        model.right += 1
