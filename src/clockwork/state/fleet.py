"""All workers, all devices, all models."""

from collections.abc import Iterator

from clockwork.messages.results import ModelInfo, WorkerInfo
from clockwork.state.gpu import ActionQueue, GPUState
from clockwork.state.model import ModelState
from clockwork.state.prediction import Predictions
from clockwork.units import Bytes, Nanos


class WorkerState:
    """A worker that is connected: its devices, and the models that it holds in host memory by name."""

    def __init__(
        self,
        worker_id: str,
        info: WorkerInfo,
        actions: ActionQueue,
        holders: dict[str, dict[GPUState, None]] | None = None,
    ) -> None:
        """A worker as it reported itself; ``holders`` is the fleet's, see `ClockworkState`.

        Raises:
            ValueError: the report contradicts itself.
        """
        self.id = worker_id
        self.page_size: Bytes = info.page_size
        self.round_trip: Nanos = 0  #: how long the worker took to tell its state
        self.models: dict[str, ModelInfo] = {model.name: model for model in info.models}
        for gpu in info.gpus:
            unknown = [name for name in gpu.models if name not in self.models]
            if unknown:
                raise ValueError(f"worker {worker_id} reports weights of models that it does not hold: {unknown}")
        #: the device that each outstanding action is for, by the action's id
        self.routes: dict[int, GPUState] = {}
        self.gpus = [GPUState(worker_id, gpu, self.models, actions, self.routes, holders) for gpu in info.gpus]
        self._by_id = {gpu.gpu_id: gpu for gpu in self.gpus}
        if len(self._by_id) != len(self.gpus):
            raise ValueError(f"worker {worker_id} reports a device twice")

    def gpu(self, gpu_id: int) -> GPUState:
        """The device with that number.

        Raises:
            KeyError: there is none.
        """
        return self._by_id[gpu_id]

    @property
    def silent(self) -> bool:
        """Whether nothing was received from the worker for a while, although it is connected: it may hang."""
        return any(gpu.silent for gpu in self.gpus)

    def note_silence(self, silent: bool) -> None:
        """The worker is silent, or is heard again."""
        for gpu in self.gpus:
            gpu.silent = silent

    def measured(self, model: ModelState) -> bool:
        """Whether the model's times are known on every device of the worker that can hold it."""
        return all(gpu.kind in model.profiles for gpu in self.gpus if gpu.can_hold(model.name))

    def leave(self) -> None:
        """The worker is gone, with what its devices hold."""
        for gpu in self.gpus:
            gpu.leave()

    def forget(self, model: str) -> None:
        """The worker unloads the model by itself."""
        del self.models[model]
        for gpu in self.gpus:
            gpu.forget(model)


class ClockworkState:
    """Everything a scheduler may know. ``workers`` are those that are ready; ``models`` those that are served."""

    def __init__(self) -> None:
        """No worker, no model."""
        self.workers: dict[str, WorkerState] = {}
        self.models: dict[str, ModelState] = {}
        #: actions made by devices' states and not sent yet; the controller sends them after each call of the scheduler
        self.actions = ActionQueue()
        #: model -> the devices that have its weights, of all workers that have told their state, in order of arrival;
        #: models that are nowhere are absent
        self.holders: dict[str, dict[GPUState, None]] = {}
        #: the share of the server's own time that is in use, 0 to 1, and when that was measured (-1: never)
        self.load: tuple[float, Nanos] = (0.0, -1)
        self._departed = Predictions()  #: of devices that are gone

    def depart(self, worker_id: str) -> None:
        """A worker is gone; what was predicted of its actions is remembered.

        Raises:
            KeyError: there is none of that name.
        """
        for gpu in self.workers.pop(worker_id).gpus:
            self._departed.merge(gpu.predictions)

    def each_predictions(self) -> Iterator[Predictions]:
        """Those of the devices that are gone, and of each that is there."""
        yield self._departed
        for gpu in self.gpus():
            yield gpu.predictions

    def predictions(self) -> Predictions:
        """Those of all devices together, with those that are gone."""
        made = Predictions()
        for one in self.each_predictions():
            made.merge(one)
        return made

    def gpus(self) -> Iterator[GPUState]:
        """All devices of all workers, in a fixed order."""
        for worker in self.workers.values():
            yield from worker.gpus

    def answers(self) -> bool:
        """Whether a worker serves and is not silent."""
        return any(not worker.silent for worker in self.workers.values())

    def can_serve(self, model: str) -> bool:
        """Whether a device of a worker that is not silent can hold the model, and its times there are known."""
        found = self.models.get(model)
        if found is None:
            return False
        return any(
            not gpu.silent and gpu.can_hold(model) and gpu.kind in found.profiles
            for worker in self.workers.values()
            for gpu in worker.gpus
        )

    def add_model(self, info: ModelInfo) -> ModelState:
        """The model of that name, made if need be."""
        model = self.models.get(info.name)
        if model is None:
            model = self.models[info.name] = ModelState(info)
        return model

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and checkers."""
        for gpu in self.gpus():
            gpu.check_invariants()
