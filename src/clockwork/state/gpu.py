"""The controller's view of one device: its pages, the weights on it, and its outstanding actions.

The state of a model's weights is one of the states in `clockwork.state.residency`. Models that are not in the cache are
COLD.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from clockwork.messages.actions import DeviceAction, EvictWeights, Infer, InferInput, LoadWeights
from clockwork.messages.commands import SendAction
from clockwork.messages.results import (
    ErrorResult,
    GPUInfo,
    InferResult,
    LoadWeightsResult,
    ModelInfo,
    Result,
    Timing,
)
from clockwork.messages.status import Status
from clockwork.pages import PageCache
from clockwork.state.model import ModelState
from clockwork.state.prediction import Predictions, StartPredictor, compare
from clockwork.state.request import PendingRequest
from clockwork.state.residency import RESIDENCY, Residency, ResidencyEvent
from clockwork.state.work import Work
from clockwork.units import FOREVER, MILLISECOND, Nanos

_ABSENT: Final = frozenset({Status.WEIGHTS_NOT_PRESENT, Status.UNKNOWN_MODEL})
_IMPOSSIBLE: Final = frozenset(
    {Status.WEIGHTS_ALREADY_LOADED, Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE, Status.UNKNOWN_MODEL}
)


MAX_GAP: Final[Nanos] = 2 * MILLISECOND
"""Longest gap between two Infers that is counted as overhead of the second Infer. Longer gaps have other causes."""

MAX_EXECUTIONS: Final = 200
"""Limit of the count of a model's executions on a device."""

MAX_TRANSIT: Final[Nanos] = MILLISECOND // 2
"""Time after which a sent action is assumed to have reached its worker."""


class GPUState:
    """A device, which may be a GPU or a set of CPU cores.

    ``models`` are the models in the host memory of the device's worker. Only these models can be loaded.
    """

    def __init__(
        self,
        worker_id: str,
        info: GPUInfo,
        models: dict[str, ModelInfo],
        actions: "ActionQueue",
        routes: "dict[int, GPUState]",
        holders: "dict[str, dict[GPUState, None]] | None" = None,
    ) -> None:
        """Create the state of a device from its worker's report.

        All devices of the fleet share ``actions`` and ``holders``. A device adds its actions to ``actions``, and adds
        itself to ``holders`` for each model whose weights are on the device. All devices of a worker share ``routes``,
        which maps the id of an outstanding action to its device.

        Raises:
            ValueError: the weights on the device need more pages than it has.
        """
        self.worker_id = worker_id
        self.gpu_id = info.id
        self.label = f"{worker_id}/gpu{info.id}"  #: the name of the device in messages
        self.kind = info.kind
        self.models = models
        self.cache = PageCache(info.total_pages)
        self.silent = False  #: whether the worker is connected but has sent nothing for a while, or refuses actions
        self.gone = False  #: whether the worker was lost
        self.outstanding: dict[int, DeviceAction] = {}
        self.exec_end: Nanos = 0  #: end of the last Infer whose result is known
        self.loads: dict[str, Timing] = {}  #: model -> timing of the last load of its weights
        self.predictions = Predictions()  #: errors of the predictions of its actions
        self.work = Work()  #: counts of its actions since its worker connected
        self._loading = StartPredictor()
        self._executing = StartPredictor()
        self._actions = actions
        self._routes = routes
        self._holders = {} if holders is None else holders
        self._residency: dict[str, Residency] = {}
        self._infers: dict[str, int] = {}  #: model -> number of outstanding Infers; only models that have some
        self._executed: dict[str, int] = {}  #: model -> number of Infers that succeeded, up to `MAX_EXECUTIONS`
        for model in info.models:
            if not self.cache.take(model, models[model].weights_pages):
                raise ValueError(f"{worker_id}/gpu{info.id} reports weights of more pages than its {info.total_pages}")
            self._hold_weights(model, ResidencyEvent.REPORTED)

    def residency(self, model: str) -> Residency:
        """Return where the weights of the model are."""
        return self._residency.get(model, Residency.COLD)

    def in_use(self, model: str) -> bool:
        """Return whether an outstanding action needs the weights. Such weights cannot be evicted."""
        return model in self._infers or self._residency.get(model) is Residency.LOADING

    def executions(self, model: str) -> int:
        """Return how often the device has executed the model, up to `MAX_EXECUTIONS`."""
        return self._executed.get(model, 0)

    def can_hold(self, model: str) -> bool:
        """Return whether the worker has the model and its weights fit into the device's cache."""
        info = self.models.get(model)
        return info is not None and info.weights_pages <= self.cache.total

    def can_serve(self, model: ModelState) -> bool:
        """Return whether the device can hold the model, and the model was measured on devices of this kind."""
        return self.kind in model.profiles and self.can_hold(model.name)

    def load_weights(
        self,
        model: ModelState,
        earliest: Nanos = 0,
        latest: Nanos = FOREVER,
        expected: Nanos = 0,
        start: Nanos = 0,
    ) -> LoadWeights:
        """Make and queue a LoadWeights action. The action takes its pages at once.

        ``expected`` is the estimated duration, or 0 if it is unknown. ``start`` is the predicted start. If ``start`` is
        0, the action is predicted to start when earlier actions have ended.

        Raises:
            ValueError: the weights are loaded or being loaded, the worker lacks the model, too few pages are free,
                or the worker was lost.
        """
        name = model.name
        following = self._after(name, ResidencyEvent.LOAD)
        if name not in self.models:
            raise ValueError(f"load_weights: {self} does not have {name}")
        pages = self.models[name].weights_pages
        if not self.cache.take(name, pages):
            free = f"{self} has {self.cache.free} free of {self.cache.total}"
            raise ValueError(f"load_weights: {name} needs {pages} pages; {free}")
        self._residency[name] = following
        action = LoadWeights(self._actions.next_id(), self.gpu_id, name, earliest, latest, expected)
        self._queue(action, start)
        return action

    def evict_weights(self, model: str, earliest: Nanos = 0) -> EvictWeights:
        """Make and queue an EvictWeights action. The action frees its pages at once.

        Raises:
            ValueError: the weights are not loaded, an outstanding action needs them, or the worker was lost.
        """
        self._after(model, ResidencyEvent.EVICT)
        if model in self._infers:
            raise ValueError(f"evict_weights: {model} is in use on {self}")
        self._drop_weights(model)
        action = EvictWeights(self._actions.next_id(), self.gpu_id, model, earliest)
        self._queue(action, 0)
        return action

    def infer(
        self,
        model: ModelState,
        requests: Sequence[PendingRequest],
        earliest: Nanos = 0,
        latest: Nanos = FOREVER,
        expected: Nanos = 0,
        start: Nanos = 0,
    ) -> Infer:
        """Make and queue an Infer action, which executes the requests as one batch.

        The controller answers the requests when the action succeeds. If the model is not batched, its requests are
        executed one after the other. For ``expected`` and ``start``, see `load_weights`.

        Raises:
            ValueError: the weights are neither loaded nor being loaded, a request has ended or is for another model,
                there is no request, or the worker was lost.
        """
        if not requests or any(request.over or request.model is not model for request in requests):
            raise ValueError(f"infer: {list(requests)} must be pending requests for {model.name}, at least one")
        inputs = tuple(request.input for request in requests)
        return self.infer_inputs(model, inputs, earliest, latest, expected, start, requests[0].background)

    def infer_inputs(
        self,
        model: ModelState,
        inputs: tuple[InferInput, ...],
        earliest: Nanos = 0,
        latest: Nanos = FOREVER,
        expected: Nanos = 0,
        start: Nanos = 0,
        background: bool = False,
    ) -> Infer:
        """Make and queue an Infer action for inputs that belong to no pending requests.

        Measurements during start-up use this method.

        If ``background`` is true, the action does not count as a use of the model's weights.

        Raises:
            ValueError: the weights are neither loaded nor being loaded, or the worker was lost.
        """
        name = model.name
        self._after(name, ResidencyEvent.INFER)
        apart = len(inputs) > 1 and (bool(model.unbatched) or any(model.is_alone(share) for share in inputs))
        action = Infer(self._actions.next_id(), self.gpu_id, name, inputs, earliest, latest, expected, apart)
        if not background:
            self.cache.touch(name)
        self._infers[name] = self._infers.get(name, 0) + 1
        self._queue(action, start)
        return action

    def predict(self, action: LoadWeights | Infer, earliest: Nanos, expected: Nanos, start: Nanos) -> None:
        """Record the predicted start and duration of an action that is sent now.

        The action begins at ``earliest`` or later.

        ``start`` is the scheduler's prediction. If ``start`` is 0, the action is predicted to start when earlier
        actions have ended and its weights are loaded. ``expected`` is 0 if the duration is unknown. There are no
        predictions for evictions, because they take no time.
        """
        if isinstance(action, LoadWeights):
            self._loading.sent(action.id, earliest, expected, start)
            return
        if not start and self._residency.get(action.model) is Residency.LOADING:
            loads = [other for other in self.outstanding.values() if isinstance(other, LoadWeights)]
            ends = [self._loading.end_of(load.id) for load in loads if load.model == action.model]
            earliest = max([earliest, *ends])
        self._executing.sent(action.id, earliest, expected, start)

    def predicted_start(self, action_id: int) -> Nanos | None:
        """Return the predicted start of an outstanding action, or None if there is no prediction."""
        return self._executing.begin_of(action_id) or self._loading.begin_of(action_id)

    def compare(self, action: DeviceAction, result: Result, model: ModelState | None) -> None:
        """Count the prediction errors of an action for the device.

        If the model is served, also count these errors for the model.
        """
        if isinstance(result, InferResult):
            timing: Timing | None = result.exec
        else:
            timing = result.timing if isinstance(result, LoadWeightsResult) else None
        if isinstance(action, Infer):
            kind, predictor = "infer", self._executing
        elif isinstance(action, LoadWeights):
            kind, predictor = "load", self._loading
        else:
            return
        predicted = predictor.ended(action.id, None if timing is None else timing.end)
        if predicted is not None and model is not None:
            compare(predicted, timing, self.predictions.of(kind), model.predictions.of(kind))

    def occupied(self, sent: Nanos, timing: Timing) -> Nanos:
        """Return the time for which an Infer occupied the device.

        The result is the Infer's duration plus the gap between the previous Infer and this Infer.
        """
        before, self.exec_end = self.exec_end, timing.end
        gap = timing.begin - before
        return timing.end - before if before > sent + MAX_TRANSIT and 0 <= gap <= MAX_GAP else timing.duration

    def forget(self, model: str) -> None:
        """Record that the worker unloads the model. If the weights are on the device, free their pages."""
        self._executed.pop(model, None)
        if model in self._residency:
            self._after(model, ResidencyEvent.UNLOAD)
            self._drop_weights(model)

    def leave(self) -> None:
        """Record that the worker was lost. The device is removed from `holders`, and makes no more actions."""
        self.gone = True
        for model in self._residency:
            self._unlist(model)

    def settle(self, action: DeviceAction, result: Result) -> bool:
        """Update the state with the result of an outstanding action.

        The controller calls this before the scheduler's `result`.

        Return False if the result contradicts the state. In this case, the worker and the controller disagree about the
        weights cache.
        """
        del self.outstanding[action.id]
        del self._routes[action.id]
        leaving = isinstance(result, ErrorResult) and result.status == Status.SHUTTING_DOWN
        if leaving:
            self.silent = True
        if isinstance(action, Infer):
            left = self._infers[action.model] - 1
            if left:
                self._infers[action.model] = left
            else:
                del self._infers[action.model]
            if isinstance(result, InferResult):
                self._executed[action.model] = min(MAX_EXECUTIONS, self._executed.get(action.model, 0) + 1)
            # An Infer may have been sent after a load that was late or failed. The failure of such an Infer does not
            # contradict the state.
            surprising = self._residency.get(action.model) is Residency.WARM
            return not (isinstance(result, ErrorResult) and surprising and result.status in _ABSENT)
        if isinstance(action, EvictWeights):
            return leaving or not isinstance(result, ErrorResult)
        if isinstance(result, ErrorResult):
            self._after(action.model, ResidencyEvent.LOAD_FAILED)
            self._drop_weights(action.model)
            return result.status not in _IMPOSSIBLE
        self._hold_weights(action.model, ResidencyEvent.LOADED)
        return True

    def info(self) -> GPUInfo:
        """Return a description of the device, in the form in which a worker reports it."""
        warm = tuple(model for model in self.cache if self._residency[model] is Residency.WARM)
        return GPUInfo(self.gpu_id, self.kind, self.cache.total, warm)

    def check_invariants(self) -> None:
        """Assert the invariants of the state. Tests and checkers call this method."""
        assert set(self.cache) == set(self._residency)
        assert 0 <= self.cache.used <= self.cache.total
        assert all(count > 0 for count in self._infers.values())
        warm = {model for model, residency in self._residency.items() if residency is Residency.WARM}
        assert all(self in self._holders[model] for model in warm)
        assert sum(self._infers.values()) == sum(isinstance(action, Infer) for action in self.outstanding.values())
        assert len(self._loading) + len(self._executing) <= len(self.outstanding)

    def _after(self, model: str, event: ResidencyEvent) -> Residency:
        """Return the state of the model's weights after an event. Raise ValueError if the event is not allowed now."""
        if self.gone:
            raise ValueError(f"{event.value}: {self} is gone: its worker was lost")
        state = self.residency(model)
        following = RESIDENCY.get((state, event))
        if following is None:
            raise ValueError(f"{event.value}: {model} is {state.value} on {self}")
        return following

    def _hold_weights(self, model: str, event: ResidencyEvent) -> None:
        self._residency[model] = self._after(model, event)
        self._holders.setdefault(model, {})[self] = None

    def _drop_weights(self, model: str) -> None:
        self.cache.give_back(model)
        del self._residency[model]
        self._unlist(model)

    def _unlist(self, model: str) -> None:
        holders = self._holders.get(model)
        if holders is not None and holders.pop(self, self) is None and not holders:
            del self._holders[model]

    def _queue(self, action: DeviceAction, start: Nanos) -> None:
        self.outstanding[action.id] = action
        self._routes[action.id] = self
        self._actions.add(QueuedAction(self, action, start))

    def __str__(self) -> str:
        return self.label

    def __repr__(self) -> str:  # this is not an alias of __str__, because mypyc does not compile aliases of methods
        return str(self)


class QueuedAction:
    """An action that a `GPUState` has made and that the controller has not sent yet."""

    __slots__ = ("action", "gpu", "start")

    def __init__(self, gpu: GPUState, action: DeviceAction, start: Nanos) -> None:
        """``start`` is the start that the scheduler expects, or 0 if it states no time."""
        self.gpu = gpu
        self.action = action
        self.start = start

    def command(self, payloads: tuple[object, ...] = ()) -> SendAction:
        """Return the command that sends the action with the payloads of its requests."""
        return SendAction(self.gpu.worker_id, self.action, payloads)


class ActionQueue:
    """The actions that `GPUState` objects have made and that the controller has not sent yet, in order.

    A controller has one queue. The queue also numbers the actions that need no device, such as LoadModelFromDisk.
    """

    def __init__(self) -> None:
        """Start with an empty queue. The first action has the id 1."""
        self._last_id = 0
        self._queued: list[QueuedAction] = []

    def next_id(self) -> int:
        """Return an id that no action has."""
        self._last_id += 1
        return self._last_id

    def add(self, queued: QueuedAction) -> None:
        """Add an action at the end of the queue."""
        self._queued.append(queued)

    def take(self) -> list[QueuedAction]:
        """Remove and return all actions, in the order in which they were made."""
        taken = self._queued
        if taken:
            self._queued = []
        return taken

    def __len__(self) -> int:
        return len(self._queued)

    def __iter__(self) -> Iterator[QueuedAction]:
        return iter(self._queued)
