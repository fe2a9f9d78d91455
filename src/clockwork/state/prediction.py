"""When each action was expected to begin and to end, and how far that was from what happened.

Theory of operation. A prediction is made when an action leaves: what the scheduler said, or else that it begins when
all that was sent before it in its lane has ended. Nothing is predicted behind an action that no duration is known of.
It is settled when the action's result is there. *Over* is what was predicted later, or longer, than it was; *under* the
opposite. Memory is flat: histograms, to one per cent for a device and to ten for a model, of which there are many.
"""

from collections.abc import Iterator
from typing import Final

from clockwork.histogram import Histogram, add_to_both
from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.results import Timing
from clockwork.units import Nanos

OF_A_DEVICE: Final = 1
OF_A_MODEL: Final = 10
"""Widths of histograms, in per cent."""


class Lane:
    """Actions of one lane of a device that are outstanding, and when each was predicted to begin."""

    __slots__ = ("_base", "_least", "_predicted", "_unknown", "_work")

    def __init__(self) -> None:
        """Nothing is outstanding."""
        self._predicted: dict[int, tuple[Nanos, Nanos]] = {}  #: begin and duration by action id, 0: not predicted
        self._base: Nanos = 0  #: from when on the work is counted
        self._work: Nanos = 0  #: expected of those outstanding
        self._least: Nanos = 0  #: the one sent last will not have ended before
        self._unknown = 0  #: those outstanding that no duration is expected of

    def sent(self, action_id: int, earliest: Nanos, expected: Nanos, start: Nanos = 0) -> None:
        """An action leaves. ``start``: when the scheduler expects it to begin; 0 if it does not say."""
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
        """An action has ended, or (None) failed; returns when it was to begin and how long to take, 0 if nobody knew.

        None if the action never left.
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
        """When an action outstanding is predicted to begin, if that is."""
        begin, _ = self._predicted.get(action_id, (0, 0))
        return begin or None

    def end_of(self, action_id: int) -> Nanos:
        """When an action outstanding is predicted to end; 0 if it is not."""
        begin, expected = self._predicted.get(action_id, (0, 0))
        return begin + expected if begin and expected else 0

    def __len__(self) -> int:
        return len(self._predicted)


class Errors:
    """How far predictions of one thing were off."""

    __slots__ = ("over", "right", "under")

    def __init__(self, width: int) -> None:
        """None yet."""
        self.right = 0
        self.over = Histogram(width)
        self.under = Histogram(width)

    def merge(self, other: "Errors") -> None:
        """Count those of another as well."""
        self.right += other.right
        self.over.merge(other.over)
        self.under.merge(other.under)

    def summary(self) -> ErrorSummary:
        """For those who ask."""
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
    """Those of one kind of action: of its begin, its duration, its end."""

    __slots__ = ("completion", "duration", "failed", "ratios", "start")

    def __init__(self, width: int) -> None:
        """None yet."""
        self.start = Errors(width)
        self.duration = Errors(width)
        self.completion = Errors(width)
        self.failed = 0
        self.ratios = 0.0  #: expected / actual of all durations, summed

    def merge(self, other: "ActionErrors") -> None:
        """Count those of another as well."""
        self.start.merge(other.start)
        self.duration.merge(other.duration)
        self.completion.merge(other.completion)
        self.failed += other.failed
        self.ratios += other.ratios

    def summary(self) -> PredictionSummary:
        """For those who ask."""
        start, duration, completion = self.start.summary(), self.duration.summary(), self.completion.summary()
        count = duration.count
        mean = self.ratios / count if count else 0.0
        return PredictionSummary(start, duration, completion, count - duration.under, self.failed, mean)


class Predictions:
    """Those of a device, or of a model, by the kind of action."""

    __slots__ = ("_by_kind", "_width")

    def __init__(self, width: int = OF_A_DEVICE) -> None:
        """Nothing was predicted yet."""
        self._width = width
        self._by_kind: dict[str, ActionErrors] = {}

    def of(self, kind: str) -> ActionErrors:
        """Those of ``load`` or of ``infer``."""
        errors = self._by_kind.get(kind)
        if errors is None:
            errors = self._by_kind[kind] = ActionErrors(self._width)
        return errors

    def merge(self, other: "Predictions") -> None:
        """Count those of another device as well."""
        for kind, errors in other:
            self.of(kind).merge(errors)

    def summary(self) -> dict[str, PredictionSummary]:
        """For those who ask, ``infer`` before ``load``."""
        return {kind: errors.summary() for kind, errors in self}

    def __iter__(self) -> Iterator[tuple[str, ActionErrors]]:
        return iter(sorted(self._by_kind.items()))


def compare(predicted: tuple[Nanos, Nanos], timing: Timing | None, device: ActionErrors, model: ActionErrors) -> None:
    """Count what became of an action, for its device and for its model.

    ``predicted`` are its begin and its duration, 0 if they were not; ``timing`` is None if it failed.
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
    """Count an error, actual minus predicted."""
    if error > 0:
        add_to_both(error, device.under, model.under)
    elif error:
        add_to_both(-error, device.over, model.over)
    else:
        device.right += 1
        model.right += 1
