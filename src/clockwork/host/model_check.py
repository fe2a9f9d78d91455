"""Checks one model as a server would.

The production controller and the production worker core run in one thread and without a network. The controller loads
and measures the model on one device. So a model passes this check if, and only if, a server with the same machine and
options would serve it.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from clockwork.clock import MonotonicClock
from clockwork.controller.config import ControllerConfig, LoadSpec, ProfilingConfig
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.events import ControllerCommand, GiveUp, Report, WorkerConnected, WorkerResult
from clockwork.controller.stage import Stage
from clockwork.errors import InvalidModelError
from clockwork.host.task_runner import TaskRunner
from clockwork.messages.actions import Infer
from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile
from clockwork.messages.results import LoadModelFromDiskResult, ModelInfo
from clockwork.runtimes.base import HostModel, HostModelInfo, Runtime
from clockwork.scheduling import Scheduler
from clockwork.units import Bytes, Nanos, Pages
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import ActionReceived, Command, StartTask

_WORKER: Final = "check-model"

MAX_PAGES: Final[Pages] = 1 << 40
"""Number of pages of the device's weights cache during a check. No model needs more pages."""


class CheckedModel(Struct, frozen=True):
    """A model that a server would serve, with its times on this machine."""

    description: HostModelInfo
    info: ModelInfo
    read_time: Nanos
    """Time to read the model from disk into host memory and prepare it."""
    profile: ModelProfile


def check_model(
    runtime: Runtime,
    root: Path,
    path: Path,
    name: str,
    scheduler: Scheduler,
    profiling: ProfilingConfig,
    page_size: Bytes,
) -> CheckedModel:
    """Load and measure a model.

    Args:
        runtime: a runtime with one device.
        root: the model root of the worker.
        path: absolute path of the model, which must be below the root.
        name: name of the model. The runtime's batching options refer to models by name.
        scheduler: any scheduler; it gets no requests.
        profiling: configuration of profiling, as for a server.
        page_size: size of a page of the weights cache, as for a worker.

    Raises:
        InvalidModelError: a server would not serve the model.
    """
    spec = LoadSpec(path.relative_to(root).as_posix(), name, 1)
    config = ControllerConfig(models=(spec,), profiling=profiling)
    return _Check(runtime, root, ControllerWithStartupPhase(scheduler, config, {}), page_size).run()


class _Recording:
    """A runtime that remembers its last loaded model."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.version, self.device_kind = runtime.version, runtime.device_kind
        self.locate, self.links = runtime.locate, runtime.links
        self.loaded: HostModel | None = None

    def load_model(self, path: Path, name: str = "", *, isolated: bool = False) -> HostModel:
        self.loaded = self._runtime.load_model(path, name, isolated=isolated)
        return self.loaded


class _Check:
    def __init__(self, runtime: Runtime, root: Path, controller: ControllerWithStartupPhase, page_size: Bytes) -> None:
        self._runtime = _Recording(runtime)
        self._controller = controller
        self._core = WorkerCore(page_size, [(runtime.device_kind, MAX_PAGES)])
        self._runner = TaskRunner(self._runtime, root, MonotonicClock())
        self._actions: deque[SendAction] = deque()
        self._read_time: Nanos = 0
        self._problems: list[str] = []

    def run(self) -> CheckedModel:
        now = MonotonicClock.now
        self._execute(self._controller.handle(now(), WorkerConnected(_WORKER)))
        while self._actions and self._controller.stage is not Stage.SERVING:
            send = self._actions.popleft()
            inputs = send.action.inputs if isinstance(send.action, Infer) else ()
            # all inputs are generated, so there are no payloads
            event = ActionReceived(send.action, (None,) * len(inputs))
            self._carry_out(self._core.handle(now(), event))
        status = self._controller.description(now()).server()
        found = next((model for model in status.models if model.profiles), None)
        if found is None or self._runtime.loaded is None:
            problems = [*status.broken.values(), *self._problems]
            raise InvalidModelError(problems[0] if problems else f"start-up stopped in stage {status.stage}")
        (profile,) = found.profiles.values()
        return CheckedModel(self._runtime.loaded.info, found.info, self._read_time, profile)

    def _carry_out(self, commands: Sequence[Command]) -> None:
        """Execute the worker's tasks and pass their results to the controller, until the worker is idle."""
        waiting = deque(commands)
        while waiting:
            command = waiting.popleft()
            if isinstance(command, StartTask):
                waiting += self._core.handle(MonotonicClock.now(), self._runner.run(command))
                continue
            result = self._runner.finish(command).result
            if isinstance(result, LoadModelFromDiskResult):
                self._read_time = result.timing.duration
            event = WorkerResult(_WORKER, result)
            self._execute(self._controller.handle(MonotonicClock.now(), event))

    def _execute(self, commands: Sequence[ControllerCommand]) -> None:
        for command in commands:
            match command:
                case SendAction():
                    self._actions.append(command)
                case GiveUp(reason):
                    self._problems.insert(0, reason)
                case Report(level, text) if level in ("WARNING", "ERROR"):
                    self._problems.append(text)
