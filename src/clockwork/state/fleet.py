"""Stores the state of the whole fleet: workers, devices and models."""

from collections.abc import Iterator
from typing import Final

from clockwork.messages.actions import DeviceAction
from clockwork.messages.results import ModelInfo, WorkerInfo
from clockwork.state.gpu import ActionQueue, GPUState
from clockwork.state.model import ModelState
from clockwork.state.prediction import Predictions
from clockwork.units import Bytes, Nanos

MAX_FINDINGS: Final = 50
"""Largest number of findings that are kept of a worker. The command ``clockwork check-env`` has fewer checks."""


class WorkerState:
    """A connected worker, with its devices and, by name, the models in its host memory."""

    def __init__(
        self,
        worker_id: str,
        info: WorkerInfo,
        actions: ActionQueue,
        holders: dict[str, dict[GPUState, None]] | None = None,
    ) -> None:
        """Create the state of a worker from the worker's report. ``holders`` is `ClockworkState.holders`.

        Raises:
            ValueError: the report contradicts itself.
        """
        self.id = worker_id
        self.page_size: Bytes = info.page_size
        self.round_trip: Nanos = 0  #: time from sending GetWorkerState to receiving the report
        self.software = ""  #: name and version of the worker's software, or empty if unknown
        self.accepts: tuple[str, ...] = ()  #: names of further actions that the worker can execute
        self.models: dict[str, ModelInfo] = {model.name: model for model in info.models}
        self.findings = info.findings[:MAX_FINDINGS]  #: what disturbs the worker's machine, with the worst first
        self.lacks: dict[str, str] = {}  #: model whose file is missing on the worker -> the worker's error message
        for gpu in info.gpus:
            unknown = [name for name in gpu.models if name not in self.models]
            if unknown:
                raise ValueError(f"worker {worker_id} reports weights of models that it does not hold: {unknown}")
        #: action id -> device, for all outstanding actions
        self.routes: dict[int, GPUState] = {}
        self.gpus = [GPUState(worker_id, gpu, self.models, actions, self.routes, holders) for gpu in info.gpus]
        self._by_id = {gpu.gpu_id: gpu for gpu in self.gpus}
        if len(self._by_id) != len(self.gpus):
            raise ValueError(f"worker {worker_id} reports a device twice")

    def gpu(self, gpu_id: int) -> GPUState:
        """Return the device with that number.

        Raises:
            KeyError: the worker has no such device.
        """
        return self._by_id[gpu_id]

    @property
    def silent(self) -> bool:
        """Whether the worker is connected but has sent nothing for a while. Such a worker may hang."""
        return any(gpu.silent for gpu in self.gpus)

    def note_silence(self, silent: bool) -> None:
        """Record whether the worker is silent."""
        for gpu in self.gpus:
            gpu.silent = silent

    def measured(self, model: ModelState) -> bool:
        """Return whether the model was measured on all kinds of this worker's devices on which the model fits."""
        return all(gpu.kind in model.profiles for gpu in self.gpus if gpu.can_hold(model.name))

    def leave(self) -> None:
        """Record that the worker and the weights on its devices were lost."""
        for gpu in self.gpus:
            gpu.leave()

    def forget(self, model: str) -> None:
        """Record that the worker unloads the model."""
        del self.models[model]
        for gpu in self.gpus:
            gpu.forget(model)


class ClockworkState:
    """The state that a scheduler may use: the workers that are ready to serve, and the served models."""

    def __init__(self) -> None:
        """Start without workers and models."""
        self.workers: dict[str, WorkerState] = {}
        self.models: dict[str, ModelState] = {}
        #: actions that `GPUState` objects have queued; the controller sends them after each call of the scheduler
        self.recording = False  #: whether the parts of decisions are recorded (`PendingRequest.verdict`)
        self.actions = ActionQueue()
        #: model -> devices that have its weights, in the order in which they got them; includes devices of workers that
        #: are not ready yet, but no models that are on no device
        self.holders: dict[str, dict[GPUState, None]] = {}
        #: share of the server's processor time that is in use, from 0 to 1, and the time of this measurement (-1: none
        #: yet)
        self.load: tuple[float, Nanos] = (0.0, -1)
        self._departed = Predictions()  #: predictions of devices whose workers were lost

    def depart(self, worker_id: str) -> None:
        """Remove a worker that was lost, but keep the errors of its devices' predictions.

        Raises:
            KeyError: there is no such worker.
        """
        for gpu in self.workers.pop(worker_id).gpus:
            self._departed.merge(gpu.predictions)

    def each_predictions(self) -> Iterator[Predictions]:
        """Iterate over the prediction errors of each connected device, and of all lost devices together."""
        yield self._departed
        for gpu in self.gpus():
            yield gpu.predictions

    def predictions(self) -> Predictions:
        """Return the prediction errors of all devices together, including lost devices."""
        merged = Predictions()
        for predictions in self.each_predictions():
            merged.merge(predictions)
        return merged

    def gpus(self) -> Iterator[GPUState]:
        """Iterate over all devices of all workers, in a fixed order."""
        for worker in self.workers.values():
            yield from worker.gpus

    def outstanding(self) -> Iterator[DeviceAction]:
        """Iterate over all actions that were sent to devices and have no result."""
        return (action for gpu in self.gpus() for action in gpu.outstanding.values())

    def answers(self) -> bool:
        """Return whether any worker is ready and not silent."""
        return any(not worker.silent for worker in self.workers.values())

    def can_serve(self, model: str) -> bool:
        """Return whether any device can serve the model.

        Such a device is not silent, can hold the model, and is of a kind on which the model was measured.
        """
        found = self.models.get(model)
        if found is None:
            return False
        return any(not gpu.silent and gpu.can_serve(found) for worker in self.workers.values() for gpu in worker.gpus)

    def add_model(self, info: ModelInfo) -> ModelState:
        """Return the model with this name. Create a model if the name is new."""
        model = self.models.get(info.name)
        if model is None:
            model = self.models[info.name] = ModelState(info)
        return model

    def check_invariants(self) -> None:
        """Assert the invariants of all devices. Tests and checkers call this method."""
        for gpu in self.gpus():
            gpu.check_invariants()
