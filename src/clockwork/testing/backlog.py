"""Runs a controller in the stage SERVING with any number of pending requests, to measure the cost of an event.

Devices return results only when `Backlog.result` is called, so requests stay pending. Each method creates one kind of
event, and lets the controller do all of its work for this event.
"""

from typing import Final

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ControllerCommand, Respond
from clockwork.controller.serving import Serving
from clockwork.messages.actions import Infer, LoadWeights
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.requests import InferRequest
from clockwork.messages.results import (
    GPUInfo,
    InferOutput,
    InferResult,
    LoadWeightsResult,
    ModelInfo,
    Result,
    Timing,
    WorkerInfo,
)
from clockwork.messages.tensors import Datatype, TensorInfo, spec
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, WorkerState
from clockwork.units import GIB, MIB, Nanos, ms, seconds

KIND: Final = "device"
PAGE: Final = 16 * MIB
HOUR: Final[Nanos] = seconds(3600)
STEP: Final[Nanos] = ms(1)
"""Time between two events. This time is longer than a scheduler waits for more requests before it decides."""

_CLIENT: Final = 1
_INPUTS: Final = (spec("x", Datatype.FP32, (1, 4)),)
_TENSOR: Final = TensorInfo("x", Datatype.FP32, (-1, 4))
_TIMES: Final = {1: ms(1), 2: ms(1.5), 4: ms(2.5), 8: ms(4.5)}


MANY: Final = 10_000_000
"""A limit on requests that is larger than any test needs."""


class Backlog:
    """A controller with workers and one client. Each worker has one device, which has the weights of all models."""

    def __init__(self, scheduler: Scheduler, *, models: int = 4, workers: int = 2) -> None:
        """Start without requests."""
        self.now: Nanos = seconds(1)
        self._names = [f"m{number}" for number in range(models)]
        infos = tuple(_model(name) for name in self._names)
        self._state = ClockworkState()
        for info in infos:
            profile = {size: Measurement((time,)) for size, time in _TIMES.items()}
            self._state.add_model(info).profiles[KIND] = ModelProfile(Measurement((ms(3),)), profile, max(_TIMES))
        for number in range(workers):
            device = GPUInfo(0, KIND, models, tuple(self._names))
            worker = WorkerInfo(PAGE, (device,), infos)
            name = f"w{number}"
            self._state.workers[name] = WorkerState(name, worker, self._state.actions, self._state.holders)
        self._serving = Serving(
            self._state,
            scheduler,
            ControllerConfig(
                max_pending=MANY, max_pending_bytes=1024 * GIB, max_client_pending=MANY, max_client_bytes=1024 * GIB
            ),
        )
        self._last_id = 0
        self.pending: dict[int, None] = {}  #: ids of the requests that are not answered yet
        self._carry_out(self._serving.start(self.now))

    def request(self, count: int = 1, slo: Nanos = HOUR, apart: Nanos = 0) -> None:
        """Let ``count`` requests arrive at once.

        The SLO of each request is longer by ``apart`` than the previous SLO.
        """
        for number in range(count):
            self._last_id += 1
            name = self._names[self._last_id % len(self._names)]
            request = InferRequest(self._last_id, name, _INPUTS, slo + number * apart)
            self.pending[self._last_id] = None
            self._carry_out(self._serving.infer(self.now, _CLIENT, request, None))
        self.wait(STEP)

    def wait(self, duration: Nanos) -> None:
        """Let time pass, and wake the controller whenever a wake-up is due."""
        until = self.now + duration
        while (moment := self._serving.next_wakeup()) is not None and moment <= until:
            self.now = max(self.now, moment)
            self._carry_out(self._serving.wake(self.now))
        self.now = until

    def cancel(self) -> None:
        """Cancel the request that was sent last."""
        self._carry_out(self._serving.cancel(self.now, _CLIENT, self.pending.popitem()[0]))
        self._serving.next_wakeup()

    def result(self) -> bool:
        """Let a device return the result of its first outstanding action.

        Return whether there was an outstanding action.
        """
        for worker in self._state.workers.values():
            for action_id, gpu in worker.routes.items():
                action = gpu.outstanding[action_id]
                begin = max(self.now, action.earliest)
                result: Result = LoadWeightsResult(action_id, Timing(begin, begin + ms(3), ms(3)))
                payloads: tuple[object, ...] = ()
                if isinstance(action, Infer):
                    time = _TIMES[next(size for size in _TIMES if size >= action.batch_size)]
                    outputs = tuple(InferOutput(share.request_id, ()) for share in action.inputs)
                    nothing, payloads = Timing(begin, begin, 0), (None,) * len(outputs)
                    result = InferResult(action_id, outputs, nothing, Timing(begin, begin + time, time), nothing)
                elif not isinstance(action, LoadWeights):
                    continue
                self.now = max(self.now, begin + ms(5))
                self._carry_out(self._serving.result(self.now, worker, result, payloads))
                self._serving.next_wakeup()
                return True
        return False

    def lose_worker(self) -> None:
        """Lose the first worker, with all actions that were sent to it or planned for it."""
        worker = next(iter(self._state.workers.values()))
        worker.leave()
        self._carry_out(self._serving.worker_lost(self.now, worker))
        self.wait(STEP)

    def _carry_out(self, commands: list[ControllerCommand]) -> None:
        for command in commands:
            if isinstance(command, Respond):
                self.pending.pop(command.response.id, None)


def _model(name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        path=f"{name}.onnx",
        digest=f"digest of {name}",
        runtime="none",
        inputs=(_TENSOR,),
        outputs=(_TENSOR,),
        batchable=True,
        weights_bytes=PAGE,
        weights_pages=1,
        load=name,
        copies=1,
    )
