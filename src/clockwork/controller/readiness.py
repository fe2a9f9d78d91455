"""Whether the server, or one of its models, could answer a request now.

Theory of operation. A worker that hangs keeps its connection until the heartbeat's timeout, since losing a worker
costs more than noticing it late. The host reports it silent well before that: it is then not counted on. Its
outstanding actions stay as they are, and the next byte received from it brings it back.
"""

from collections.abc import Mapping

from clockwork.controller.events import Report
from clockwork.controller.reporting import worker_report
from clockwork.controller.stage import Stage, WorkerPhase
from clockwork.state import ClockworkState, WorkerState


def is_ready(stage: Stage, state: ClockworkState, model: str | None = None) -> bool:
    """Whether a request would be answered now: of any model, or of the one named."""
    if stage is not Stage.SERVING:
        return False
    return state.answers() if model is None else state.can_serve(model)


def ready_workers(fleet: Mapping[str, WorkerState], phases: Mapping[str, WorkerPhase]) -> frozenset[str]:
    """The names of the workers that serve and are not silent."""
    return frozenset(name for name, worker in fleet.items() if phases[name] is WorkerPhase.READY and not worker.silent)


def note_silence(worker: WorkerState | None, silent: bool) -> list[Report]:
    """Record that a worker is silent, or is heard again; None: the worker has not told its state yet."""
    if worker is None or worker.silent is silent:
        return []
    worker.note_silence(silent)
    if silent:
        return [worker_report("WARNING", worker.id, "silent", "it hangs, or the network is cut")]
    return [worker_report("INFO", worker.id, "heard")]
