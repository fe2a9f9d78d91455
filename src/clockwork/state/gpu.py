"""One device as the controller sees it.

Theory of operation. A model's residency on a device is a table::

    (state,   event)            -> state
    COLD      load_weights         LOADING   pages are taken now, before the worker confirms
    LOADING   LoadWeightsResult    WARM
    LOADING   ErrorResult          COLD      the pages are given back; Infers sent behind it will fail
    LOADING   evict_weights        -         refused: the load must end first
    WARM      evict_weights        COLD      optimistic: the worker's LOAD lane keeps the order
    WARM      infer                WARM      and evict_weights is refused until its result is there

COLD models are those not in the cache. What leaves the table raises `ValueError`: a bug of whoever asked.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, TypeAlias

from clockwork.messages.actions import EvictWeights, Infer, InferInput, LoadWeights
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
from clockwork.state.prediction import Lane, Predictions, compare
from clockwork.state.request import PendingRequest
from clockwork.state.work import Work
from clockwork.units import FOREVER, MILLISECOND, Nanos

GPUAction: TypeAlias = LoadWeights | EvictWeights | Infer
"""An action of one device."""

_ABSENT: Final = frozenset({Status.WEIGHTS_NOT_PRESENT, Status.UNKNOWN_MODEL})
_IMPOSSIBLE: Final = frozenset(
    {Status.WEIGHTS_ALREADY_LOADED, Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE, Status.UNKNOWN_MODEL}
)


GAP_MOST: Final[Nanos] = 2 * MILLISECOND
"""Between two Infers that follow each other; a longer one has other reasons."""


ON_ITS_WAY: Final[Nanos] = MILLISECOND // 2
"""An action that was sent this long ago is at its worker."""


class Residency(Enum):
    """Where a model's weights are, seen from one device."""

    COLD = "cold"
    LOADING = "loading"
    WARM = "warm"


class GPUState:
    """A device: its pages, who owns them, and the actions that it has not answered yet.

    ``models`` are those that its worker holds in host memory: only they can be loaded.
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
        """A device as its worker reported it.

        All devices of the fleet put the actions that they make into ``actions``, and note in ``holders`` the models
        whose weights they have. All devices of the worker note the ids of their actions in ``routes``.

        Raises:
            ValueError: its loaded models need more pages than it has.
        """
        self.worker_id = worker_id
        self.gpu_id = info.id
        self.kind = info.kind
        self.models = models
        self.cache = PageCache(info.total_pages)
        self.silent = False  #: its worker is connected, but nothing was received from it for a while
        self.gone = False  #: its worker was lost
        self.outstanding: dict[int, GPUAction] = {}
        self.exec_end: Nanos = 0  #: when the last Infer that is known ended
        self.loads: dict[str, Timing] = {}  #: model -> when its weights were last loaded here
        self.predictions = Predictions()  #: of its actions, held against what happened
        self.work = Work()  #: what it did in service
        self._loading = Lane()
        self._executing = Lane()
        self._actions = actions
        self._routes = routes
        self._holders = {} if holders is None else holders
        self._residency: dict[str, Residency] = {}
        self._infers: dict[str, int] = {}  #: model -> Infer actions outstanding, only where there are some
        for model in info.models:
            if not self.cache.take(model, models[model].weights_pages):
                raise ValueError(f"{worker_id} gpu {info.id} holds more than its {info.total_pages} pages")
            self._warm(model)

    def residency(self, model: str) -> Residency:
        """Where the weights of ``model`` are."""
        return self._residency.get(model, Residency.COLD)

    def in_use(self, model: str) -> bool:
        """Whether an action outstanding needs the weights, so that they cannot be evicted."""
        return model in self._infers or self._residency.get(model) is Residency.LOADING

    def can_hold(self, model: str) -> bool:
        """Whether the worker has the model and the device is big enough for it at all."""
        info = self.models.get(model)
        return info is not None and info.weights_pages <= self.cache.total

    def load_weights(
        self,
        model: ModelState,
        earliest: Nanos = 0,
        latest: Nanos = FOREVER,
        expected: Nanos = 0,
        start: Nanos = 0,
    ) -> LoadWeights:
        """Make a LoadWeights action, which takes the pages now; the controller sends it.

        ``expected`` and ``start``: how long it is expected to take, and when to begin; 0: nobody knows, and when what
        was sent before it has ended.

        Raises:
            ValueError: the weights are there or on their way, the worker lacks the model, too few pages are free, or
                the worker was lost.
        """
        name = model.name
        self._check_present()
        if name in self._residency:
            raise ValueError(f"{name} is {self._residency[name].value} on {self}")
        if name not in self.models:
            raise ValueError(f"{self} does not have {name}")
        pages = self.models[name].weights_pages
        if not self.cache.take(name, pages):
            raise ValueError(f"{name} needs {pages} pages; {self} has {self.cache.free} free of {self.cache.total}")
        self._residency[name] = Residency.LOADING
        action = LoadWeights(self._actions.next_id(), self.gpu_id, name, earliest, latest, expected)
        self._queue(action, start)
        return action

    def evict_weights(self, model: str, earliest: Nanos = 0) -> EvictWeights:
        """Make an EvictWeights action, which frees the pages now; the controller sends it.

        Raises:
            ValueError: the weights are not there, on their way, or needed by an action outstanding, or the worker was
                lost.
        """
        self._check_present()
        if self._residency.get(model) is not Residency.WARM or model in self._infers:
            raise ValueError(f"{model} is {self.residency(model).value} or in use on {self}")
        self.cache.give_back(model)
        self._cold(model)
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
        """Make an Infer action, which executes the requests as one batch; the controller sends it.

        The controller answers the requests when the action succeeds. Requests of a model that is not batched are
        executed one after the other. ``expected`` and ``start``: see `load_weights`.

        Raises:
            ValueError: the weights are neither there nor on their way, a request is over or for another model, there
                is no request, or the worker was lost.
        """
        if not requests or any(request.over or request.model is not model for request in requests):
            raise ValueError(f"{list(requests)}: none, one that is over already, or not for {model.name}")
        inputs = tuple(request.input for request in requests)
        return self.infer_inputs(model, inputs, earliest, latest, expected, start)

    def infer_inputs(
        self,
        model: ModelState,
        inputs: tuple[InferInput, ...],
        earliest: Nanos = 0,
        latest: Nanos = FOREVER,
        expected: Nanos = 0,
        start: Nanos = 0,
    ) -> Infer:
        """Make an Infer action like `infer`, for inputs that need not belong to pending requests: measurements.

        Raises:
            ValueError: the weights are neither there nor on their way, or the worker was lost.
        """
        name = model.name
        self._check_present()
        if name not in self._residency:
            raise ValueError(f"{name} is not on {self}")
        apart = len(inputs) > 1 and bool(model.unbatched)
        action = Infer(self._actions.next_id(), self.gpu_id, name, inputs, earliest, latest, expected, apart)
        self.cache.touch(name)
        self._infers[name] = self._infers.get(name, 0) + 1
        self._queue(action, start)
        return action

    def predict(self, action: LoadWeights | Infer, earliest: Nanos, expected: Nanos, start: Nanos) -> None:
        """An action leaves: note when it should begin, not before ``earliest``, and how long it should take.

        ``start``: when the scheduler says that it begins; 0: when what was sent before it has ended, and its weights
        are there. ``expected`` is 0 if nobody knows. Evictions take no time, and nothing is predicted of them.
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
        """When an action outstanding should begin; None if that was not predicted."""
        return self._executing.begin_of(action_id) or self._loading.begin_of(action_id)

    def compare(self, action: GPUAction, result: Result, model: ModelState | None) -> None:
        """Hold what was predicted of an action against what happened, here and for its model if that is served."""
        if isinstance(result, InferResult):
            timing: Timing | None = result.exec
        else:
            timing = result.timing if isinstance(result, LoadWeightsResult) else None
        if isinstance(action, Infer):
            kind, lane = "infer", self._executing
        elif isinstance(action, LoadWeights):
            kind, lane = "load", self._loading
        else:
            return
        predicted = lane.ended(action.id, None if timing is None else timing.end)
        if predicted is not None and model is not None:
            compare(predicted, timing, self.predictions.of(kind), model.predictions.of(kind))

    def occupied(self, sent: Nanos, timing: Timing) -> Nanos:
        """How long an Infer has kept the device from the next: its duration, and the gap after the one before it."""
        before, self.exec_end = self.exec_end, timing.end
        gap = timing.begin - before
        return timing.end - before if before > sent + ON_ITS_WAY and 0 <= gap <= GAP_MOST else timing.duration

    def forget(self, model: str) -> None:
        """The worker unloads the model by itself: its pages are free. Nothing happens if it has none."""
        if model in self._residency:
            self.cache.give_back(model)
            self._cold(model)

    def leave(self) -> None:
        """The worker was lost: the device holds no weights and makes no more actions."""
        self.gone = True
        for model in self._residency:
            self._unlist(model)

    def settle(self, action: GPUAction, result: Result) -> bool:
        """Take the result of an outstanding action into account; the controller does, before the scheduler hears of it.

        Returns whether the picture of the cache still holds: False means that worker and controller disagree.
        """
        del self.outstanding[action.id]
        del self._routes[action.id]
        if isinstance(action, Infer):
            left = self._infers[action.model] - 1
            if left:
                self._infers[action.model] = left
            else:
                del self._infers[action.model]
            # An Infer sent behind a load that was late or failed is no contradiction.
            surprising = self._residency.get(action.model) is Residency.WARM
            return not (isinstance(result, ErrorResult) and surprising and result.status in _ABSENT)
        if isinstance(action, EvictWeights):
            return not isinstance(result, ErrorResult)
        if isinstance(result, ErrorResult):
            self.cache.give_back(action.model)
            self._cold(action.model)
            return result.status not in _IMPOSSIBLE
        self._warm(action.model)
        return True

    def info(self) -> GPUInfo:
        """The device as GetWorkerState would describe it."""
        warm = tuple(m for m in self.cache if self._residency[m] is Residency.WARM)
        return GPUInfo(self.gpu_id, self.kind, self.cache.total, warm)

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and checkers."""
        assert set(self.cache) == set(self._residency)
        assert 0 <= self.cache.used <= self.cache.total
        assert all(count > 0 for count in self._infers.values())
        warm = {model for model, residency in self._residency.items() if residency is Residency.WARM}
        assert all(self in self._holders[model] for model in warm)
        assert sum(self._infers.values()) == sum(isinstance(a, Infer) for a in self.outstanding.values())
        assert len(self._loading) + len(self._executing) <= len(self.outstanding)

    def _warm(self, model: str) -> None:
        self._residency[model] = Residency.WARM
        self._holders.setdefault(model, {})[self] = None

    def _cold(self, model: str) -> None:
        del self._residency[model]
        self._unlist(model)

    def _unlist(self, model: str) -> None:
        holders = self._holders.get(model)
        if holders is not None and holders.pop(self, self) is None and not holders:
            del self._holders[model]

    def _check_present(self) -> None:
        if self.gone:
            raise ValueError(f"{self} is gone: its worker was lost")

    def _queue(self, action: GPUAction, start: Nanos) -> None:
        self.outstanding[action.id] = action
        self._routes[action.id] = self
        self._actions.add(QueuedAction(self, action, start))

    def __str__(self) -> str:
        return f"{self.worker_id}/gpu{self.gpu_id}"

    def __repr__(self) -> str:  # a def: mypyc compiles no alias of a method
        return str(self)


class QueuedAction:
    """An action that a device's state has made and the controller has not sent yet."""

    __slots__ = ("action", "gpu", "start")

    def __init__(self, gpu: GPUState, action: GPUAction, start: Nanos) -> None:
        """``start`` is when the scheduler expects the action to begin; 0 if it states no time."""
        self.gpu = gpu
        self.action = action
        self.start = start

    def command(self, payloads: tuple[object, ...] = ()) -> SendAction:
        """Return the command that sends the action with its requests' payloads."""
        return SendAction(self.gpu.worker_id, self.action, payloads)


class ActionQueue:
    """The actions that devices' states have made and the controller has not sent yet, in order.

    There is one queue in a controller. It also numbers the actions that need no device, such as LoadModelFromDisk.
    """

    def __init__(self) -> None:
        """Empty; the first action has the id 1."""
        self._last_id = 0
        self._queued: list[QueuedAction] = []

    def next_id(self) -> int:
        """Return an id that no action has."""
        self._last_id += 1
        return self._last_id

    def add(self, queued: QueuedAction) -> None:
        """Put an action at the end."""
        self._queued.append(queued)

    def take(self) -> list[QueuedAction]:
        """Return all actions, in the order in which they were made, and leave the queue empty."""
        taken = self._queued
        if taken:
            self._queued = []
        return taken

    def __len__(self) -> int:
        return len(self._queued)

    def __iter__(self) -> Iterator[QueuedAction]:
        return iter(self._queued)
