"""Checks a simulated cluster. The watcher sees every event, and collects violations and records.

The watcher checks these invariants of ARCHITECTURE.md:

- I1: Every request is answered exactly once.
- I2: No request succeeds after its deadline.
- I3: No action starts outside its window.
- I6: When nothing is running, the controller's view of each device's memory equals the worker's.

The watcher also calls the invariant checks of the machines. The watcher checks that admitted requests are in time,
unless a fault or a duration beyond its estimate explains the delay.
"""

from collections.abc import Callable
from typing import Any, Final

from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.messages.actions import EvictWeights, Infer, LoadModelFromDisk, LoadWeights, model_names
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import ServerStatus
from clockwork.messages.results import ErrorResult, EvictWeightsResult, InferResult, LoadWeightsResult, Result
from clockwork.units import FOREVER, Nanos
from clockwork.worker.events import StartTask

MAX_VIOLATIONS: Final = 100
"""Largest number of violations whose text is stored. Further violations are only counted."""

MAX_REPORTS: Final = 100
"""Largest number of warnings whose text is stored."""


class Watcher:
    """Collects violations, warnings and action records of one simulation."""

    def __init__(
        self,
        *,
        every: int = 0,
        record: Callable[[dict[str, Any]], None] | None = None,
        expected: frozenset[str] = frozenset(),
    ) -> None:
        """``every`` is the number of events between checks of the invariants, or 0 for no checks.

        ``record`` gets a record of each action. Errors that the controller reports with an event in ``expected`` are
        not violations.
        """
        self.violations: list[str] = []
        self.reports: list[str] = []
        self.violation_count = 0
        self.actions: dict[str, int] = {}
        self.loaded: dict[str, str] = {}  #: path of each model that a worker was told to load, by the name on workers
        self._every = every
        self._left = every
        self._expected = expected
        self._record = record
        self._sent: dict[int, tuple[Nanos, SendAction, Nanos | None]] = {}

    @property
    def recording(self) -> bool:
        """Whether actions are recorded."""
        return self._record is not None

    def violation(self, text: str) -> None:
        """Record a violation."""
        self.violation_count += 1
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(text)

    def reported(self, level: str, text: str, event: str) -> None:
        """Record a log message of the controller. An error is a violation, unless its event is expected."""
        if level == "ERROR" and event not in self._expected:
            self.violation(f"the controller reports: {text}")
        elif level in ("ERROR", "WARNING") and len(self.reports) < MAX_REPORTS:
            self.reports.append(text)

    def moved(self, controller: ControllerWithStartupPhase) -> None:
        """Check the controller's invariants after an event, if a check is due."""
        if self._every:
            self._left -= 1
            if self._left <= 0:
                self._left = self._every
                try:
                    controller.check_invariants()
                except AssertionError as error:
                    self.violation(f"an invariant of the controller does not hold: {error!r}")

    def started(self, worker: str, task: StartTask, local: Nanos) -> None:
        """Check that a worker started an action inside the action's window, according to the worker's clock."""
        action = task.action
        if isinstance(action, Infer | LoadWeights | EvictWeights) and not action.earliest <= local <= action.latest:
            self.violation(
                f"{worker} started {type(action).__name__} {action.id} at {local}, outside its window "
                f"[{action.earliest}, {action.latest}]"
            )

    def sent(self, now: Nanos, send: SendAction, predicted_start: Nanos | None) -> None:
        """Count an action that the controller sent, and store its predicted start."""
        if isinstance(send.action, LoadModelFromDisk):
            names = model_names(send.action.name, send.action.no_of_copies)
            self.loaded.update(dict.fromkeys(names, send.action.path))
        name = type(send.action).__name__
        self.actions[name] = self.actions.get(name, 0) + 1
        if self._record is not None and isinstance(send.action, Infer | LoadWeights | EvictWeights):
            self._sent[send.action.id] = (now, send, predicted_start)

    def ended(self, now: Nanos, worker: str, result: Result) -> None:
        """Record an action whose result has arrived. All times are times of the controller's clock."""
        known = self._sent.pop(result.id, None)
        if known is not None and self._record is not None:
            self._record(_action_record(now, *known, result))

    def check_rest(self, truth: dict[str, list[tuple[int, tuple[str, ...]]]], status: ServerStatus) -> None:
        """Compare the controller's view with the workers' memory. No message may be in flight.

        ``truth`` contains, by worker, the number of used pages and the sorted models of each device.
        """
        for worker in status.workers:
            for gpu, (used, models) in zip(worker.gpus, truth.get(worker.id, []), strict=False):
                if gpu.used_pages != used or tuple(sorted(gpu.gpu.models)) != models:
                    self.violation(
                        f"at rest, {worker.id}/gpu{gpu.gpu.id} holds {models} in {used} pages; the controller has "
                        f"{gpu.gpu.models} in {gpu.used_pages}"
                    )
                if gpu.outstanding:
                    self.violation(f"at rest, {gpu.outstanding} actions are outstanding at {worker.id}")
        if status.outstanding:
            self.violation(f"at rest, {status.outstanding} requests are pending")


def _action_record(
    now: Nanos, sent: Nanos, send: SendAction, predicted_start: Nanos | None, result: Result
) -> dict[str, Any]:
    action = send.action
    assert isinstance(action, Infer | LoadWeights | EvictWeights)
    record: dict[str, Any] = {
        "record": "action",
        "id": action.id,
        "type": type(action).__name__,
        "worker": send.worker_id,
        "gpu": action.gpu,
        "model": action.model,
        "sent": sent,
        "earliest": action.earliest,
        "latest": action.latest if action.latest < FOREVER else None,
        "ended": now,
        "status": 0,
    }
    if isinstance(action, Infer):
        record["batch_size"] = action.batch_size
        record["requests"] = [share.request_id for share in action.inputs]
    if isinstance(action, Infer | LoadWeights):
        record["predicted_start"] = predicted_start
        record["expected"] = action.expected_duration
    match result:
        case InferResult(exec=timing) | LoadWeightsResult(timing=timing) | EvictWeightsResult(timing=timing):
            record |= {"begin": timing.begin, "end": timing.end, "duration": timing.duration}
        case ErrorResult():
            record |= {"status": result.status, "message": result.message}
    return record
