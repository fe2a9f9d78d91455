"""What became of each model's requests, counted."""

from clockwork.messages.status import Status


class Counts:
    """One model's counters; see `clockwork.messages.requests.ModelStatus`."""

    __slots__ = ("broken_promises", "cold_starts", "failed", "in_time", "late", "refused")

    def __init__(self) -> None:
        """All zero."""
        self.broken_promises = 0
        self.in_time = 0
        self.late = 0
        self.refused = 0
        self.failed = 0
        self.cold_starts = 0


class Tally:
    """Counters per model."""

    def __init__(self) -> None:
        """Nothing counted."""
        self._counts: dict[str, Counts] = {}

    def of(self, model: str) -> Counts:
        """The model's counters; to be read, or to be raised."""
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = Counts()
        return counts

    def count(self, model: str, status: int) -> None:
        """Count an answer that the scheduler gave by the deadline."""
        counts = self.of(model)
        if status == Status.SUCCESS:
            counts.in_time += 1
        elif status == Status.TIMEOUT:
            counts.late += 1
        elif status in (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME):
            counts.refused += 1
        else:
            counts.failed += 1
