"""Keeps the state and the phase of each connected worker, and decides which workers can serve.

A worker that hangs keeps its connection until its heartbeats time out. This time-out is long, because losing a worker
by mistake costs more than noticing a hang late. Long before the time-out, the host reports the worker as *silent*. A
silent worker counts as not ready, but the controller keeps its outstanding actions. The next byte from the worker ends
the silence.
"""

from typing import Final

from clockwork.controller.events import ControllerCommand, DropWorker, Report, WorkerConnected
from clockwork.controller.querying import StateQueries
from clockwork.controller.stage import WorkerPhase
from clockwork.messages.actions import UnloadModel
from clockwork.messages.commands import SendAction
from clockwork.messages.results import ErrorResult, GetWorkerStateResult, Result
from clockwork.state import ClockworkState, WorkerState
from clockwork.units import Nanos
from clockwork.version import __version__

_TEXTS: Final = {
    "connected": "worker {worker} connected",
    "version": "worker {worker} runs {reason}",
    "lost": "worker {worker} is lost: {reason}",
    "silent": "worker {worker} is silent: {reason}",
    "heard": "worker {worker} is no longer silent",
    "ready": "worker {worker} is ready to serve",
}


class Fleet:
    """The connected workers by name."""

    def __init__(self, state: ClockworkState, query_timeout: Nanos) -> None:
        """``query_timeout`` is the time after which a worker is dropped if it has not reported its state."""
        self._state = state
        self.workers: dict[str, WorkerState] = {}  #: workers that have reported their state
        self.phases: dict[str, WorkerPhase] = {}  #: the phase of each connected worker
        self.queries = StateQueries(state.actions, query_timeout)
        self._greetings: dict[str, WorkerConnected] = {}  #: how each connected worker introduced itself
        self._unloads: set[int] = set()  #: ids of outstanding UnloadModel actions

    def connect(self, now: Nanos, event: WorkerConnected) -> list[ControllerCommand]:
        """Add a worker that has connected, and request its state."""
        worker_id, own = event.worker_id, f"clockwork {__version__}"
        self.phases[worker_id] = WorkerPhase.QUERIED
        self._greetings[worker_id] = event
        commands: list[ControllerCommand] = [worker_report("INFO", worker_id, "connected")]
        if event.software not in ("", own):
            reason = f"{event.software}; this controller runs {own}"
            commands.append(worker_report("INFO", worker_id, "version", reason))
        return [*commands, self.queries.ask(now, worker_id)]

    def remove(self, worker_id: str) -> WorkerState | None:
        """Remove a worker that is lost. If the worker has reported its state, return the state."""
        del self.phases[worker_id], self._greetings[worker_id]
        self.queries.forget(worker_id)
        worker = self.workers.pop(worker_id, None)
        if worker is not None:
            worker.leave()
        return worker

    def add_state(self, worker_id: str, result: Result, round_trip: Nanos) -> WorkerState | DropWorker:
        """Add the state that a worker has reported. If the report is unusable, return a command to drop the worker."""
        if not isinstance(result, GetWorkerStateResult):
            message = result.message if isinstance(result, ErrorResult) else f"it sent {result!r}"
            return DropWorker(worker_id, f"the worker cannot report its state: {message}")
        if not result.worker.gpus:
            return DropWorker(worker_id, "the worker has no devices")
        try:
            worker = WorkerState(worker_id, result.worker, self._state.actions, self._state.holders)
        except ValueError as error:
            return DropWorker(worker_id, str(error))
        worker.round_trip, greeting = round_trip, self._greetings[worker_id]
        worker.software, worker.accepts = greeting.software, greeting.accepts
        self.workers[worker_id] = worker
        self.phases[worker_id] = WorkerPhase.KNOWN
        return worker

    def unload_contradictions(self, worker: WorkerState) -> list[ControllerCommand]:
        """Unload a worker's models whose content differs from that of other workers' models with the same names."""
        models = self._state.models
        contradictions = [
            name
            for name, info in worker.models.items()
            if (known := models.get(name)) is not None and known.info.digest != info.digest
        ]
        if not contradictions:
            return []
        names = ", ".join(contradictions)
        text = f"models on worker {worker.id} differ from the other workers' models of the same name; reloading {names}"
        return [Report("WARNING", text), *self.unload(worker, contradictions)]

    def unload(self, worker: WorkerState, names: list[str]) -> list[ControllerCommand]:
        """Unload models from a worker that does not serve yet."""
        if not names:
            return []
        for name in names:
            worker.forget(name)
        action = UnloadModel(self._state.actions.next_id(), tuple(names))
        self._unloads.add(action.id)
        return [SendAction(worker.id, action)]

    def note_unload(self, action_id: int) -> bool:
        """If the id belongs to an outstanding UnloadModel, record its end and return true."""
        if action_id not in self._unloads:
            return False
        self._unloads.discard(action_id)
        return True

    def note_silence(self, worker_id: str, silent: bool) -> list[Report]:
        """Record that a worker has become silent, or is no longer silent."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.silent is silent:
            return []
        worker.note_silence(silent)
        if silent:
            return [worker_report("WARNING", worker.id, "silent", "it hangs, or the network is interrupted")]
        return [worker_report("INFO", worker.id, "heard")]

    def ready(self) -> frozenset[str]:
        """Return the names of the workers that serve and are not silent."""
        return frozenset(
            name
            for name, worker in self.workers.items()
            if self.phases[name] is WorkerPhase.READY and not worker.silent
        )


def worker_report(level: str, worker_id: str, event: str, reason: str = "") -> Report:
    """Return a report about a worker. ``event`` is a key of `_TEXTS`."""
    fields: dict[str, str | int] = {"worker": worker_id}
    if reason:
        fields["reason"] = reason
    return Report(level, _TEXTS[event].format(worker=worker_id, reason=reason), f"worker_{event}", fields)
