"""Loads models into the host memory of every worker.

Theory of operation. A load is sent to all workers. The load ends when each worker has answered or is lost. A load
succeeds on all workers or on none. If one worker fails, the models of this load are unloaded from the other workers.
The client gets an error with the message of each worker that failed. Before SERVING, the loss of a worker during a load
counts as a failure, because the model may have crashed the worker. While the server serves, a load goes on with the
workers that remain. At most ``loads_per_worker`` LoadModelFromDisk actions are outstanding at a worker. Other loads
wait in order.

A load is *partial* if the server is serving, or if the operator named the model. A partial load may succeed even if
some workers lack the file: one worker that has loaded the file is enough. Workers without the file are not used for the
model. When such a worker connects again, it tries to load the model again.

If the controller sends model files (`clockwork.controller.pushing`), a worker that lacks a file receives it, and then
repeats its LoadModelFromDisk. Meanwhile other loads go on.

A *restoration* loads models on a worker that connected late, so that it has the same models as the other workers. If a
restoration fails, only this worker is affected.
"""

from collections import deque
from functools import partial

from clockwork.controller.config import LoadSpec
from clockwork.controller.events import DescribeModel, Report, Respond
from clockwork.controller.naming import spec_names
from clockwork.controller.pushing import Pushes
from clockwork.controller.responses import refusal_response
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import FetchModel, LoadModelFromDisk, UnloadModel, model_names
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import LoadModelRequest, LoadModelResponse, UnloadModelRequest
from clockwork.messages.results import ErrorResult, LoadModelFromDiskResult, ModelInfo, Result
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, WorkerState

LoadingCommand = SendAction | Respond | Report | DescribeModel


class Load:
    """A load under way. ``client`` is (client id, request id), or None if no client requested the load."""

    def __init__(
        self,
        spec: LoadSpec,
        client: tuple[int, int] | None,
        restores: bool = False,
        partial: bool = False,
        serving: bool = False,
    ) -> None:
        """``restores``: whether the load is a restoration.

        ``partial``: workers that lack the file do not make the load fail.

        ``serving``: the load belongs to a change while the server serves. Lost workers do not make the load fail. If
        the load fails, the change reports the failure.
        """
        self.spec = spec
        self.client = client
        self.restores = restores
        self.partial = partial
        self.serving = serving
        self.names = model_names(spec.name, spec.no_of_copies)
        self.waiting: set[str] = set()  #: workers that have not answered yet
        self.loaded: dict[str, tuple[ModelInfo, ...]] = {}  #: loaded models by worker
        self.failures: dict[str, tuple[int, str]] = {}  #: worker -> status, message
        self.lacking: dict[str, str] = {}  #: worker without the file -> message, in a load that succeeds
        self.lost: set[str] = set()  #: workers that count as failed because they were lost
        self.contents: dict[str, str] = {}  #: worker that has received the files -> their content
        self.undoing: set[str] = set()  #: workers that have not answered UnloadModel yet

    @property
    def failed(self) -> bool:
        """Whether any worker has failed."""
        return bool(self.failures)

    @property
    def only_lost_workers(self) -> bool:
        """Whether the load failed only because workers were lost."""
        return self.failed and self.lost == set(self.failures)

    @property
    def worst_status(self) -> Status:
        """Status of the failed load. INVALID_REQUEST: the client is at fault on every failed worker.

        ERROR: otherwise.
        """
        return _worst(self)

    def describe_failures(self) -> str:
        """Return the message of each worker that failed."""
        return "; ".join(f"worker {worker}: {message}" for worker, (_, message) in sorted(self.failures.items()))


class Loads:
    """All loads under way."""

    def __init__(
        self, state: ClockworkState, fleet: dict[str, WorkerState], per_worker: int, pushes: Pushes | None = None
    ) -> None:
        """``fleet`` contains the workers that have reported their state. The owner of ``fleet`` keeps it up to date.

        ``pushes`` sends files to workers that lack them.
        """
        self._state = state
        self.pushes = pushes or Pushes(state.actions, enabled=False)
        self._fleet = fleet
        self._per_worker = per_worker
        self._loads: list[Load] = []
        self._queues: dict[str, deque[Load]] = {}
        self._outstanding: dict[int, tuple[str, Load]] = {}  #: action id -> worker, load
        self.finished: list[Load] = []  #: loads that have ended; the owner removes them

    @property
    def pending(self) -> int:
        """Number of loads that have not ended."""
        return len(self._loads)

    def shut_down(self, text: str) -> list[Respond]:
        """Answer all clients that wait for a load with SHUTTING_DOWN. Do not call `result` afterwards."""
        clients = [load.client for load in self._loads if load.client is not None]
        return [
            Respond(client_id, LoadModelResponse(request_id, Status.SHUTTING_DOWN, text))
            for client_id, request_id in clients
        ]

    def pending_for(self, worker_id: str) -> bool:
        """Return whether a pending load waits for the worker."""
        return any(worker_id in load.waiting or worker_id in load.undoing for load in self._loads)

    def names(self) -> set[str]:
        """Return the names of the models that are being loaded."""
        return {name for load in self._loads for name in load.names}

    def check(self, spec: LoadSpec) -> None:
        """Check that a client may load these models now.

        Raises:
            InvalidRequestError: a name is in use.
        """
        names = spec_names(spec)
        being_loaded = self.names() & names
        if being_loaded:
            listed = ", ".join(sorted(being_loaded))
            raise InvalidRequestError(f"a model is already being loaded as {listed}; choose another name")
        for name in sorted(names & set(self._state.models)):
            info = self._state.models[name].info
            if (info.path, info.load, info.copies) != (spec.path, spec.name, spec.no_of_copies):
                raise InvalidRequestError(
                    f"name {name!r} is in use by a model from {info.path} ({info.copies} copies); choose another name"
                )

    def owns(self, worker_id: str, action_id: int) -> bool:
        """Return whether a load has an outstanding action with this id at the worker."""
        return action_id in self._outstanding and self._outstanding[action_id][0] == worker_id

    def start(self, load: Load, workers: list[str]) -> list[LoadingCommand]:
        """Begin a load. Without workers, the load fails at once."""
        self._loads.append(load)
        load.waiting = set(workers)
        if not workers:
            load.failures["-"] = (Status.ERROR, "no worker is connected")
            return self._finish(load)
        commands: list[LoadingCommand] = []
        for worker in workers:
            self._queues.setdefault(worker, deque()).append(load)
            commands += self._pump(worker)
        return commands

    def restore(self, worker: WorkerState) -> list[LoadingCommand]:
        """Load the models that a worker lacks, except models that the worker is already loading."""
        loading = {name for load in self._loads if worker.id in load.waiting for name in load.names}
        known = worker.models | worker.lacks.keys() | loading  # made once for thousands of models
        specs = {
            LoadSpec(model.info.path, model.info.load, model.info.copies)
            for name, model in self._state.models.items()
            if name not in known
        }
        commands: list[LoadingCommand] = []
        for spec in sorted(specs, key=lambda spec: (spec.name, spec.no_of_copies, spec.path)):
            commands += self.start(Load(spec, None, restores=True), [worker.id])
        return commands

    def result(self, worker_id: str, result: Result) -> list[LoadingCommand]:
        """Handle the result of a worker's action for which `owns` is true."""
        _, load = self._outstanding.pop(result.id)
        if worker_id in load.undoing:
            load.undoing.discard(worker_id)
            finished = self._finish(load) if not load.undoing else []
            return finished + self._pump(worker_id)
        if isinstance(result, ErrorResult) and self._can_push(worker_id, load, result):
            done = partial(self._pushed, worker_id, load, result.message)
            return [*self.pushes.begin(worker_id, load.spec.path, load.spec.name, done), *self._pump(worker_id)]
        load.waiting.discard(worker_id)
        if isinstance(result, LoadModelFromDiskResult):
            load.loaded[worker_id] = result.models
            self._check(load, worker_id)
        elif isinstance(result, ErrorResult):
            load.failures[worker_id] = (result.status, result.message)
        else:
            load.failures[worker_id] = (Status.ERROR, f"it answered LoadModelFromDisk with {type(result).__name__}")
        return self._answered(load) + self._pump(worker_id)

    def worker_lost(self, worker_id: str) -> list[LoadingCommand]:
        """Handle the loss of a worker."""
        self._queues.pop(worker_id, None)
        commands: list[LoadingCommand] = [*self.pushes.worker_lost(worker_id)]
        self._outstanding = {i: entry for i, entry in self._outstanding.items() if entry[0] != worker_id}
        for load in list(self._loads):
            load.loaded.pop(worker_id, None)
            if worker_id in load.waiting:
                load.waiting.discard(worker_id)
                if not load.serving or not (load.waiting or load.loaded):
                    load.lost.add(worker_id)
                    load.failures[worker_id] = (Status.ERROR, "it was lost while it loaded the model")
                commands += self._answered(load)
            elif worker_id in load.undoing:
                load.undoing.discard(worker_id)
                if not load.undoing:
                    commands += self._finish(load)
        return commands

    def _pump(self, worker_id: str) -> list[LoadingCommand]:
        commands: list[LoadingCommand] = []
        queue = self._queues.get(worker_id, deque())
        while queue and sum(worker == worker_id for worker, _ in self._outstanding.values()) < self._per_worker:
            load = queue.popleft()
            action = LoadModelFromDisk(
                self._state.actions.next_id(),
                load.spec.path,
                load.spec.name,
                load.spec.no_of_copies,
                isolated=worker_id in self._state.workers,
                content=load.contents.get(worker_id, ""),
            )
            self._outstanding[action.id] = (worker_id, load)
            commands.append(SendAction(worker_id, action))
        return commands

    def _can_push(self, worker_id: str, load: Load, result: ErrorResult) -> bool:
        """Return whether a worker lacks the files of a load and can receive them."""
        lacks = result.status == Status.INVALID_MODEL_PATH and worker_id not in load.contents
        return lacks and self.pushes.enabled and FetchModel.__name__ in self._fleet[worker_id].accepts

    def _pushed(self, worker_id: str, load: Load, lacking: str, content: str, problem: str) -> list[LoadingCommand]:
        """Repeat a load on a worker that has received the files, or record why the worker has not received them.

        ``lacking`` is the worker's message about the missing file.
        """
        if not problem:
            load.contents[worker_id] = content
            self._queues.setdefault(worker_id, deque()).append(load)
            return self._pump(worker_id)
        load.waiting.discard(worker_id)
        text = f"{lacking}; the controller cannot send the file: {problem}"
        load.failures[worker_id] = (Status.INVALID_MODEL_PATH, text)
        return self._answered(load)

    def _check(self, load: Load, worker_id: str) -> None:
        """Check that a worker has loaded the right models, with the same content as the other workers."""
        infos = load.loaded[worker_id]
        if tuple(info.name for info in infos) != load.names:
            text = f"it loaded {[info.name for info in infos]} instead of {list(load.names)}"
            load.failures[worker_id] = (Status.ERROR, text)
            return
        if any(info.weights_pages < 1 for info in infos):
            load.failures[worker_id] = (Status.ERROR, f"its weights take {infos[0].weights_pages} pages")
            return
        others = [self._state.models[n].info for n in load.names if n in self._state.models]
        others += [info for worker in load.loaded if worker not in load.failures for info in load.loaded[worker]]
        if any(info.digest != infos[0].digest for info in others):
            text = f"its {load.spec.path} has other content than on other workers (sha256 {infos[0].digest[:12]})"
            load.failures[worker_id] = (Status.INVALID_MODEL, text)

    def _answered(self, load: Load) -> list[LoadingCommand]:
        if load.waiting:
            return []
        gone = {name for name in load.names if name not in self._state.models} if load.restores else set()
        if len(gone) == len(load.names):
            for worker_id in load.loaded:
                load.failures.setdefault(worker_id, (Status.CANCELLED, "the model was unloaded meanwhile"))
        self._note_lacking(load)
        if load.failed:
            return self._undo(load)
        for worker_id, infos in load.loaded.items():
            self._fleet[worker_id].models.update({info.name: info for info in infos if info.name not in gone})
        for info in next(iter(load.loaded.values())):
            if info.name not in gone:
                self._state.add_model(info)
        return self._undo(load) if gone else self._finish(load)  # if some copies are gone, unload the others

    def _note_lacking(self, load: Load) -> None:
        """Record which workers lack the file.

        These workers do not make a partial load fail if a worker has loaded the file.
        """
        lacking = {
            worker_id: message
            for worker_id, (status, message) in load.failures.items()
            if status == Status.INVALID_MODEL_PATH and worker_id in self._fleet
        }
        partial = load.partial and len(lacking) == len(load.failures) and bool(load.loaded)
        if not partial and not load.restores:
            return
        for worker_id, message in lacking.items():
            self._fleet[worker_id].lacks.update(dict.fromkeys(load.names, message))
        if partial:
            load.lacking, load.failures = lacking, {}

    def _undo(self, load: Load) -> list[LoadingCommand]:
        """Unload the models from the workers that did not have them before this load."""
        commands: list[LoadingCommand] = []
        for worker_id in load.loaded:
            held = self._fleet[worker_id].models
            names = tuple(name for name in load.names if name not in held)
            if names:
                action = UnloadModel(self._state.actions.next_id(), names)
                self._outstanding[action.id] = (worker_id, load)
                load.undoing.add(worker_id)
                commands.append(SendAction(worker_id, action))
        return commands or self._finish(load)

    def _finish(self, load: Load) -> list[LoadingCommand]:
        self._loads.remove(load)
        self.finished.append(load)
        what = f"{load.spec.path} as {load.spec.name}"
        if load.restores:
            what += f" on worker {', '.join(sorted({*load.loaded, *load.failures}))}"
        fields: dict[str, str | int] = {"model": load.spec.name, "path": load.spec.path, "copies": len(load.names)}
        if load.restores:
            fields["worker"] = ", ".join(sorted({*load.loaded, *load.failures}))
        copies = "" if len(load.names) == 1 else f", {len(load.names)} copies"
        report = Report("INFO", f"loaded {what}{copies}", "model_loaded", fields)
        if load.lacking:
            lacking = "; ".join(f"worker {worker}: {message}" for worker, message in sorted(load.lacking.items()))
            fields["reason"] = lacking
            text = f"loaded {what}{copies}, but not on all workers: {lacking}"
            report = Report("WARNING", text, "model_loaded", fields)
        status, message, names = Status.SUCCESS, "", load.names
        if load.failed:
            fields["reason"] = load.describe_failures()
            report = Report("ERROR", f"cannot load {what}: {fields['reason']}", "model_failed", fields)
            status, message, names = _worst(load), load.describe_failures(), ()
        if load.client is None:
            return [] if load.failed and load.serving else [report]
        client_id, request_id = load.client
        return [report, Respond(client_id, LoadModelResponse(request_id, status, message, names))]


def refuse_full(client_id: int, request: LoadModelRequest | UnloadModelRequest, limit: int) -> Respond:
    """Return the refusal of a request that exceeds the limit of pending loads."""
    text = f"{limit} model loads are pending, which is the limit; retry later"
    return refusal_response(client_id, request, Status.SKIPPED_BY_CONTROLLER, text)


def _worst(load: Load) -> Status:
    """Return INVALID_REQUEST if the client is at fault on every failed worker. Otherwise, return ERROR."""
    client_faults = {
        Status.INVALID_ACTION,
        Status.INVALID_MODEL_NAME,
        Status.INVALID_MODEL_PATH,
        Status.INVALID_MODEL,
        Status.MODEL_TOO_BIG,
    }
    if all(status in client_faults for status, _ in load.failures.values()):
        return Status.INVALID_REQUEST
    return Status.ERROR
