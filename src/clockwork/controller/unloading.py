"""Removes models from workers that serve requests. The weights of a model are removed from the devices first.

Theory of operation. A worker refuses an UnloadModel while the weights of the model are in use or being moved
(`clockwork.worker.tasks`). So the weights are first evicted from all devices of a worker. UnloadModel is sent when no
action for the model is outstanding and no device has its weights. A worker executes evictions and loads of weights in
one lane. So a LoadWeights that is sent after an eviction may use the evicted pages.
"""

from clockwork.controller.events import ControllerCommand, DropWorker, Report
from clockwork.messages.actions import UnloadModel
from clockwork.messages.commands import SendAction
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, Residency, WorkerState


class Unloads:
    """The models that are being removed from workers."""

    def __init__(self, state: ClockworkState) -> None:
        """Start without work."""
        self._state = state
        self._evicting: dict[str, set[str]] = {}  #: worker -> models whose weights are being evicted from its devices
        self._outstanding: dict[int, tuple[str, str]] = {}  #: id of an UnloadModel -> worker, model

    @property
    def pending(self) -> bool:
        """Whether a model is being removed from a worker."""
        return bool(self._evicting or self._outstanding)

    def begin(self, worker: WorkerState, models: list[str]) -> list[ControllerCommand]:
        """Remove models from a worker. The scheduler must not use these models any more."""
        held = {name for name in models if name in worker.models}
        if held:
            self._evicting.setdefault(worker.id, set()).update(held)
        return self.advance(worker)

    def advance(self, worker: WorkerState) -> list[ControllerCommand]:
        """Send all actions that can be sent now. Call this after every result of an action of the worker's devices."""
        waiting = self._evicting.get(worker.id)
        if not waiting:
            return []
        commands: list[ControllerCommand] = []
        for name in sorted(waiting):
            for gpu in worker.gpus:
                if gpu.residency(name) is Residency.WARM and not gpu.in_use(name):
                    gpu.evict_weights(name)
            if any(action.model == name for gpu in worker.gpus for action in gpu.outstanding.values()):
                continue
            waiting.discard(name)
            worker.forget(name)
            action = UnloadModel(self._state.actions.next_id(), (name,))
            self._outstanding[action.id] = (worker.id, name)
            commands.append(SendAction(worker.id, action))
        evictions = [queued.command() for queued in self._state.actions.take()]
        if not waiting:
            del self._evicting[worker.id]
        return [*evictions, *commands]

    def ended(self, worker_id: str, result: Result) -> list[ControllerCommand] | None:
        """Handle the result of an UnloadModel. Return None for other actions."""
        if self._outstanding.get(result.id, ("", ""))[0] != worker_id:
            return None
        _, model = self._outstanding.pop(result.id)
        if not isinstance(result, ErrorResult):
            return []
        if result.status == Status.WEIGHTS_IN_USE:
            return [DropWorker(worker_id, f"the worker contradicts the controller about weights of {model}: {result}")]
        return [Report("WARNING", f"unloading {model} from worker {worker_id} failed: {result.message}")]

    def worker_lost(self, worker_id: str) -> None:
        """Forget a worker that was lost."""
        self._evicting.pop(worker_id, None)
        self._outstanding = {i: entry for i, entry in self._outstanding.items() if entry[0] != worker_id}

    def removes_from(self, worker_id: str) -> bool:
        """Return whether a model is being removed from the worker."""
        return worker_id in self._evicting or any(worker == worker_id for worker, _ in self._outstanding.values())

    def removing(self, model: str) -> bool:
        """Return whether the model is still being removed from a worker."""
        if any(model in waiting for waiting in self._evicting.values()):
            return True
        return any(name == model for _, name in self._outstanding.values())
