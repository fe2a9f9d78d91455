"""Defines a shadow and its counts, and measures the spare time of live requests."""

from clockwork.controller.config import ShadowSpec
from clockwork.controller.events import Report, ShadowCompared
from clockwork.messages.shadows import WAITING, OutputComparison, ShadowStatus
from clockwork.units import Nanos


class Shadow:
    """A shadow and its counts. For the counts, see `ShadowStatus`."""

    def __init__(self, name: str, spec: ShadowSpec) -> None:
        """Create a shadow that has not begun yet. ``name`` is the name of the model."""
        self.name = name
        self.spec = spec
        self.version = spec.version
        self.state = WAITING
        self.reason = ""
        self.was_ready = False  #: whether the version was ready at the catalog's last change
        self.digest = ""  #: digest of the version's content
        self.seen = 0  #: number of live requests that could have been copied
        self.copied = self.compared = self.equal = self.failed = self.dropped = 0
        self.last_failure = ""
        self.mismatches: dict[str, int] = {}
        self.outputs: dict[str, OutputComparison] = {}

    def __str__(self) -> str:
        return f"shadow version {self.version} of {self.name}"

    def report(self, level: str, text: str, event: str, **fields: str | int) -> Report:
        """Return a report about the shadow."""
        return Report(level, f"{self}{text}", event, {"model": self.name, "version": self.version, **fields})

    def chooses(self) -> bool:
        """Count a live request, and return whether to copy the request."""
        before = int(self.seen * self.spec.share)
        self.seen += 1
        return int(self.seen * self.spec.share) > before

    def add(self, found: ShadowCompared) -> None:
        """Count the comparison of one copy."""
        self.compared += 1
        self.equal += not found.mismatches and all(output.equal for output in found.outputs)
        for kind in found.mismatches:
            self.mismatches[kind] = self.mismatches.get(kind, 0) + 1
        for output in found.outputs:
            known = self.outputs.get(output.name) or OutputComparison(output.name, output.datatype)
            self.outputs[output.name] = OutputComparison(
                name=output.name,
                datatype=output.datatype,
                compared=known.compared + output.compared,
                equal=known.equal + output.equal,
                max_difference=max(known.max_difference, output.max_difference),
                rows=known.rows + output.rows,
                rows_agreed=known.rows_agreed + output.rows_agreed,
            )

    def summary(self) -> str:
        """Return a summary of the comparisons as text for the log."""
        text = f"{self.compared} copies compared, {self.equal} equal, {self.failed} failed, {self.dropped} dropped"
        floats = [output for output in self.outputs.values() if output.rows or output.max_difference]
        if floats:
            text += f", largest difference {max(output.max_difference for output in floats):.3g}"
        return text

    def status(self) -> ShadowStatus:
        """Return the state and the counts as a message."""
        return ShadowStatus(
            name=self.name,
            version=self.version,
            share=self.spec.share,
            state=self.state,
            reason=self.reason,
            copied=self.copied,
            compared=self.compared,
            equal=self.equal,
            failed=self.failed,
            last_failure=self.last_failure,
            dropped=self.dropped,
            mismatches=dict(self.mismatches),
            outputs=tuple(self.outputs.values()),
        )


class SpareTime:
    """The shortest spare time of recent live requests, in two windows."""

    def __init__(self, window: Nanos) -> None:
        """Start without requests. ``window`` is the length of a window."""
        self._window = window
        self._begin: Nanos = 0
        self._least: Nanos | None = None
        self._before: Nanos | None = None  #: the shortest spare time in the previous window

    def note(self, now: Nanos, spare: Nanos) -> None:
        """Record the spare time of a live request.

        Requests without spare time are ignored, because they cannot be in time.
        """
        self._turn(now)
        if spare > 0 and (self._least is None or spare < self._least):
            self._least = spare

    def at(self, now: Nanos) -> Nanos | None:
        """Return the shortest spare time, or None if there was no request."""
        self._turn(now)
        return self.last()

    def last(self) -> Nanos | None:
        """Return the shortest spare time when `note` or `at` was last called."""
        known = [spare for spare in (self._least, self._before) if spare is not None]
        return min(known) if known else None

    def _turn(self, now: Nanos) -> None:
        passed = now - self._begin
        if passed >= self._window:
            self._before = self._least if passed < 2 * self._window else None
            self._least, self._begin = None, now
