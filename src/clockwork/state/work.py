"""Counts the actions that a device has executed, and adds up their times."""

from clockwork.messages.counts import DeviceCounts
from clockwork.messages.results import ErrorResult, EvictWeightsResult, InferResult, LoadWeightsResult, Result
from clockwork.units import Nanos


class Work:
    """Counts of one device's actions. For the fields, see `DeviceCounts`."""

    __slots__ = ("batches", "evictions", "exec_ns", "failed", "load_ns", "loads")

    def __init__(self) -> None:
        """Start at zero."""
        self.batches = self.loads = self.evictions = self.failed = 0
        self.exec_ns: Nanos = 0
        self.load_ns: Nanos = 0

    def count(self, result: Result) -> None:
        """Count the result of an action that the scheduler made."""
        if isinstance(result, InferResult):
            self.batches += 1
            self.exec_ns += result.exec.duration
        elif isinstance(result, LoadWeightsResult):
            self.loads += 1
            self.load_ns += result.timing.duration
        elif isinstance(result, EvictWeightsResult):
            self.evictions += 1
        elif isinstance(result, ErrorResult):
            self.failed += 1

    def summary(self) -> DeviceCounts:
        """Return the counts as the status reports them."""
        return DeviceCounts(self.batches, self.exec_ns, self.loads, self.load_ns, self.evictions, self.failed)
