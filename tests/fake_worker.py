"""Simulates a worker with literal durations. It reports actions that a correct controller never sends.

This module imports nothing from the controller, so it cannot share an error in the controller's view of a worker. A
worker has one HOST lane, and a LOAD and an EXEC lane for each device. A lane runs actions in order of ``earliest``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from builders import INPUT, OUTPUT, PAGE, RUNTIME
from clockwork.messages.actions import (
    Action,
    EvictWeights,
    FetchModel,
    GetWorkerState,
    Infer,
    LoadModelFromDisk,
    LoadWeights,
    UnloadModel,
    model_names,
)
from clockwork.messages.results import (
    ErrorResult,
    EvictWeightsResult,
    ExampleInputs,
    FetchModelResult,
    GetWorkerStateResult,
    GPUInfo,
    InferOutput,
    InferResult,
    LoadModelFromDiskResult,
    LoadWeightsResult,
    ModelInfo,
    Result,
    Timing,
    UnloadModelResult,
    WorkerInfo,
)
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo
from clockwork.units import Nanos, ms

LOADS_OUTSTANDING = 5  #: this is enough for four restorations and one change

#: Statuses that a worker returns only if the controller has a wrong view of it.
CONTRADICTIONS = {
    Status.UNKNOWN_MODEL,
    Status.WEIGHTS_ALREADY_LOADED,
    Status.WEIGHTS_IN_USE,
    Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE,
    Status.EVICT_WEIGHTS_NOT_IN_CACHE,
}


@dataclass(frozen=True)
class File:
    """A model's file with its durations. An Infer takes ``infer``, and ``row`` more for each further row."""

    digest: str = ""
    pages: int = 1
    disk: Nanos = ms(5)
    load: Nanos = ms(8)
    infer: Nanos = ms(3)
    row: Nanos = ms(1)
    inputs: tuple[TensorInfo, ...] = (INPUT,)
    batchable: bool = True
    example: ExampleInputs | None = None
    rejects: str = ""
    """Why the model rejects all inputs. Empty if it accepts them."""
    largest_batch: int = 1 << 30
    """Number of rows of the largest batch that succeeds."""
    version: str = "1"

    def info(self, path: str, name: str, load: str, copies: int) -> ModelInfo:
        """Return the description of the file's model."""
        digest = self.digest or f"sha-{path}"
        size = self.pages * PAGE
        return ModelInfo(
            name,
            path,
            digest,
            RUNTIME,
            self.inputs,
            (OUTPUT,),
            self.batchable,
            size,
            self.pages,
            load,
            copies,
            example=self.example,
            version=self.version,
        )


@dataclass
class Lane:
    """A lane, which runs one action at a time."""

    waiting: list[tuple[Nanos, int, Action]] = field(default_factory=list)
    running: Action | None = None
    ends: Nanos = 0
    error: ErrorResult | None = None

    def next_at(self, now: Nanos, blocked: str | None = None) -> Nanos | None:
        """Return the time of the next start.

        Return None while the next action needs the weights of a ``blocked`` model.
        """
        if self.running is not None:
            return self.ends
        if not self.waiting or getattr(self.waiting[0][2], "model", "") == blocked:
            return None
        return max(now, self.waiting[0][0])


class FakeGPU:
    """A device. It records the pages of each model whose weights it has."""

    def __init__(self, id: int, pages: int, kind: str) -> None:
        self.id = id
        self.pages = pages
        self.kind = kind
        self.weights: dict[str, int] = {}
        self.loading: str | None = None
        self.load = Lane()
        self.exec = Lane()

    @property
    def used(self) -> int:
        return sum(self.weights.values())

    def settled(self) -> tuple[str, ...]:
        """The models whose weights are on the device."""
        return tuple(name for name in self.weights if name != self.loading)


class FakeWorker:
    """A worker; see the module's docstring. ``disk`` is its model root, which maps a path to a `File`."""

    def __init__(self, id: str, disk: dict[str, File], *, gpus: int = 1, pages: int = 4, kind: str = "gpu") -> None:
        self.id = id
        self.disk = disk
        self.now: Nanos = 0
        self.host = Lane()
        self.gpus = [FakeGPU(gpu, pages, kind) for gpu in range(gpus)]
        self.accepts: tuple[str, ...] = ()  #: further actions that the worker's greeting names
        self.receivable: dict[str, File] = {}  #: files that any FetchModel puts on the disk
        self.models: dict[str, ModelInfo] = {}
        #: for an action's name, the failure of the next action with this name, which has no effect
        self.fail: dict[str, tuple[Status, str]] = {}
        #: results of actions with these names are not returned but collected in ``unanswered``
        self.silent: set[str] = set()
        self.unanswered: list[Action] = []
        self.contradictions: list[str] = []
        self._outbox: list[Result] = []
        self._arrivals = 0

    def hold(self, path: str, name: str = "", copies: int = 1, warm: bool = False) -> "FakeWorker":
        """Have a model from the start. If ``warm``, its weights are on the first device."""
        load = name or path.removesuffix(".onnx")
        for model in model_names(load, copies):
            self.models[model] = self.disk[path].info(path, model, load, copies)
            if warm:
                self.gpus[0].weights[model] = self.disk[path].pages
        return self

    def reset(self) -> None:
        """End the connection. Waiting actions are dropped, and running actions have no result."""
        for lane in self._lanes():
            lane.waiting.clear()
            lane.running = None
        for gpu in self.gpus:
            if gpu.loading is not None:
                del gpu.weights[gpu.loading]
                gpu.loading = None
        self._outbox.clear()
        self.fail.clear()

    # --- what comes in, what goes out --------------------------------------------------------------------------------

    def send(self, now: Nanos, action: Action) -> None:
        """Accept an action from the controller."""
        self.now = now
        if type(action).__name__ in self.silent:
            self.unanswered.append(action)
            return
        if isinstance(action, GetWorkerState):
            self._outbox.append(self._injected(action) or GetWorkerStateResult(action.id, self.info()))
            return
        if isinstance(action, FetchModel):
            self.disk = {**self.disk, **self.receivable}
            self._outbox.append(self._injected(action) or FetchModelResult(action.id, action.nbytes))
            return
        lane = self._lane_of(action)
        self._witness(action)
        self._arrivals += 1
        heappush(lane.waiting, (getattr(action, "earliest", 0), self._arrivals, action))

    def next_at(self) -> Nanos | None:
        """Return the time of the next result or start."""
        if self._outbox:
            return self.now
        moments = [self.host.next_at(self.now)]
        for gpu in self.gpus:
            moments += [gpu.load.next_at(self.now), gpu.exec.next_at(self.now, gpu.loading)]
        return min((moment for moment in moments if moment is not None), default=None)

    def step(self, now: Nanos) -> list[Result]:
        """Do everything that is due at ``now``, a time from `next_at`. Return the results."""
        self.now = now
        self._turn(self.host, None)
        for gpu in self.gpus:
            self._turn(gpu.load, None)
            self._turn(gpu.exec, gpu.loading)
        results, self._outbox = self._outbox, []
        return results

    def outstanding(self) -> int:
        """Number of actions without a result."""
        waiting = sum(len(lane.waiting) + (lane.running is not None) for lane in self._lanes())
        return waiting + len(self._outbox)

    def info(self) -> WorkerInfo:
        """Return the response to GetWorkerState."""
        gpus = tuple(GPUInfo(gpu.id, gpu.kind, gpu.pages, gpu.settled()) for gpu in self.gpus)
        return WorkerInfo(PAGE, gpus, tuple(self.models.values()))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _turn(self, lane: Lane, blocked: str | None) -> None:
        if lane.running is not None and lane.ends <= self.now:
            self._outbox.append(self._end(lane))
        start = lane.next_at(self.now, blocked) if lane.running is None else None
        if start is not None and start <= self.now:
            self._begin(lane, heappop(lane.waiting)[2])

    def _lanes(self) -> Iterator[Lane]:
        yield self.host
        for gpu in self.gpus:
            yield gpu.load
            yield gpu.exec

    def _lane_of(self, action: Action) -> Lane:
        match action:
            case LoadModelFromDisk() | UnloadModel():
                return self.host
            case LoadWeights() | EvictWeights():
                return self.gpus[action.gpu].load
            case Infer():
                return self.gpus[action.gpu].exec
        raise AssertionError(action)

    def _witness(self, action: Action) -> None:
        """Record a complaint about an action that no correct controller sends."""
        match action:
            case LoadModelFromDisk():
                loads = [entry[2] for entry in self.host.waiting] + [self.host.running]
                if sum(isinstance(load, LoadModelFromDisk) for load in loads) >= LOADS_OUTSTANDING:
                    self.contradictions.append(f"more than {LOADS_OUTSTANDING} loads outstanding: {action}")
            case LoadWeights() | Infer() if action.model not in self.models:
                self.contradictions.append(f"a model that was never loaded from disk: {action}")
            case Infer():
                gpu = self.gpus[action.gpu]
                coming = [*gpu.weights, *(entry[2].model for entry in gpu.load.waiting)]  # type: ignore[union-attr]
                if action.model not in coming:
                    self.contradictions.append(f"weights that are neither there nor on their way: {action}")

    def _injected(self, action: Action) -> ErrorResult | None:
        name = type(action).__name__
        if name not in self.fail:
            return None
        status, message = self.fail.pop(name)
        return ErrorResult(action.id, name, status, message)

    def _begin(self, lane: Lane, action: Action) -> None:
        lane.running = action
        lane.ends = self.now
        if self.now > getattr(action, "latest", self.now):
            lane.error = ErrorResult(action.id, type(action).__name__, Status.COULD_NOT_START_IN_TIME, "too late")
            return
        lane.error = self._injected(action)
        if lane.error is None:
            problem = self._problem(action)
            if problem is not None:
                lane.error = ErrorResult(action.id, type(action).__name__, *problem)
                if problem[0] in CONTRADICTIONS:
                    self.contradictions.append(f"{problem[0].name}: {action}")
        if lane.error is None or isinstance(action, LoadModelFromDisk | Infer):
            lane.ends += self._duration(action)
        if isinstance(action, EvictWeights) and lane.error is not None:
            self.gpus[action.gpu].weights.pop(
                action.model, None
            )  # weights leave the device even if their release fails
        if lane.error is None and isinstance(action, LoadWeights):
            gpu = self.gpus[action.gpu]
            gpu.weights[action.model] = self.models[action.model].weights_pages
            gpu.loading = action.model

    def _duration(self, action: Action) -> Nanos:
        match action:
            case LoadModelFromDisk():
                return self.disk[action.path].disk if action.path in self.disk else 0
            case LoadWeights():
                return self.disk[self.models[action.model].path].load
            case Infer(batch_size=rows) if action.model in self.models:
                file = self.disk[self.models[action.model].path]
                return file.infer + (rows - 1) * file.row
        return 0

    def _problem(self, action: Action) -> tuple[Status, str] | None:
        """Return why the action cannot be executed now."""
        match action:
            case LoadModelFromDisk():
                return self._disk_problem(action)
            case UnloadModel():
                unknown = [name for name in action.models if name not in self.models]
                return (Status.UNKNOWN_MODEL, f"no {unknown}") if unknown else None
            case LoadWeights() | EvictWeights() | Infer():
                return self._weights_problem(action, self.gpus[action.gpu])
        raise AssertionError(action)

    def _disk_problem(self, action: LoadModelFromDisk) -> tuple[Status, str] | None:
        file = self.disk.get(action.path)
        if file is None:
            return Status.INVALID_MODEL_PATH, f"there is no {action.path}"
        for name in model_names(action.name, action.no_of_copies):
            held = self.models.get(name)
            made = file.info(action.path, name, action.name, action.no_of_copies)
            if held is not None and held != made:
                return Status.INVALID_MODEL_NAME, f"the name {name} is taken"
        return None

    def _weights_problem(self, action: LoadWeights | EvictWeights | Infer, gpu: FakeGPU) -> tuple[Status, str] | None:
        there = action.model in gpu.settled()
        match action:
            case LoadWeights() if action.model in gpu.weights:
                return Status.WEIGHTS_ALREADY_LOADED, "loaded already"
            case LoadWeights() if gpu.used + self.models[action.model].weights_pages > gpu.pages:
                return Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE, f"{gpu.pages - gpu.used} pages are free"
            case EvictWeights() if not there:
                return Status.EVICT_WEIGHTS_NOT_IN_CACHE, "not there"
            case EvictWeights() if isinstance(gpu.exec.running, Infer) and gpu.exec.running.model == action.model:
                return Status.WEIGHTS_IN_USE, "in use"
            case Infer() if not there:
                return Status.WEIGHTS_NOT_PRESENT, "not there"
            case Infer(batch_size=rows) if rows > self.disk[self.models[action.model].path].largest_batch:
                return Status.RUNTIME_ERROR, f"cannot execute {rows} rows"
            case Infer() if reason := self.disk[self.models[action.model].path].rejects:
                return Status.INVALID_INPUT, reason
        return None

    def _end(self, lane: Lane) -> Result:
        action, lane.running = lane.running, None
        assert action is not None
        error, lane.error = lane.error, None
        if error is not None:
            return error
        duration = self._duration(action)
        timing = Timing(self.now - duration, self.now, duration)
        match action:
            case LoadModelFromDisk():
                for name in model_names(action.name, action.no_of_copies):
                    file = self.disk[action.path]
                    self.models[name] = file.info(action.path, name, action.name, action.no_of_copies)
                names = model_names(action.name, action.no_of_copies)
                return LoadModelFromDiskResult(action.id, tuple(self.models[name] for name in names), timing)
            case UnloadModel():
                for name in action.models:
                    del self.models[name]
                    for gpu in self.gpus:
                        gpu.weights.pop(name, None)
                return UnloadModelResult(action.id)
            case LoadWeights():
                self.gpus[action.gpu].loading = None
                return LoadWeightsResult(action.id, timing)
            case EvictWeights():
                del self.gpus[action.gpu].weights[action.model]
                return EvictWeightsResult(action.id, timing)
            case Infer():
                outputs = tuple(InferOutput(share.request_id, share.tensors) for share in action.inputs)
                return InferResult(action.id, outputs, timing, timing, timing)
        raise AssertionError(action)
