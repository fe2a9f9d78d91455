"""Runs paced devices on the real clock, for ``clockwork worker --emulate``.

These devices replace the threads and the runtime of a worker. All their work happens on the event loop. Outputs are
zeros of the right size.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.host.machine_runner import MachineRunner
from clockwork.host.task_runner import ResultToSend
from clockwork.messages.actions import Action, InferInput
from clockwork.messages.results import InferOutput, InferResult, Timing
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec, spec
from clockwork.paced.durations import DurationModel
from clockwork.paced.models import PacedModel
from clockwork.paced.worker import PacedWorker
from clockwork.units import Bytes, Nanos
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import ActionReceived, ControllerLost, Event, Leave, ResultCommand, SendOutputs

FREE_DIM: Final = 1
"""Size of the free dimensions of an output, except the first dimension, which is the number of rows."""


class PacedDevices:
    """Implements `clockwork.host.devices.Devices`. Create and use this object on one running event loop."""

    def __init__(
        self,
        core: WorkerCore,
        models: Mapping[str, PacedModel],
        durations: Sequence[DurationModel],
        clock: Clock,
        on_answers: Callable[[], None],
    ) -> None:
        """The keys of ``models`` are paths of models. ``durations`` has an entry for each device.

        ``on_answers`` is called when there are results to take.
        """
        self.core = core
        self._clock = clock
        worker = PacedWorker(core, models, durations)
        self._runner: MachineRunner[Event, ResultCommand] = MachineRunner(worker, clock, self._answered)
        self._answers: list[ResultCommand] = []
        self._on_answers = on_answers
        self._outputs: dict[tuple[TensorInfo, ...], dict[int, tuple[tuple[TensorSpec, ...], Bytes]]] = {}
        self._zeros = memoryview(b"")

    def start(self) -> None:
        """Do nothing, because these devices have no threads to start."""

    async def end(self) -> None:
        """Stop. Running tasks end without a result."""
        self._runner.close()

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """Accept an action. Return None, because `expire` need not be called."""
        self._runner.feed(ActionReceived(action, payloads))
        return None

    def expire(self) -> Nanos | None:
        """Do nothing, because paced devices handle late actions on their own timers."""
        return None

    def controller_lost(self) -> None:
        """Drop the results that have not been taken, because the connection to the controller is lost."""
        self._runner.feed(ControllerLost())
        self._answers.clear()

    def leave(self) -> None:
        """Refuse waiting and new actions. Running tasks continue to their ends."""
        self._runner.feed(Leave())

    def owes_results(self) -> bool:
        """Return whether the controller expects the result of a running task."""
        return self.core.owes_results

    def take_results(self) -> list[ResultToSend]:
        """Return the results since the last call, in their order."""
        answers, self._answers = self._answers, []
        return [
            self._finish(answer) if isinstance(answer, SendOutputs) else ResultToSend(answer.result)
            for answer in answers
        ]

    def _answered(self, answer: ResultCommand) -> None:
        if not self._answers:
            self._on_answers()
        self._answers.append(answer)

    def _finish(self, sent: SendOutputs) -> ResultToSend:
        model: Any = sent.outputs
        shares = [self._share(model, request) for request in sent.action.inputs]
        outputs = tuple(
            [
                InferOutput(request.request_id, specs)
                for request, (specs, _) in zip(sent.action.inputs, shares, strict=True)
            ]
        )
        end = sent.exec.end
        result = InferResult(sent.action.id, outputs, sent.copy_input, sent.exec, Timing(end, end, 0))
        nbytes = sum([size for _, size in shares])
        if len(self._zeros) < nbytes:
            self._zeros = memoryview(bytes(nbytes))
        return ResultToSend(result, [self._zeros[:nbytes]] if nbytes else [])

    def _share(self, model: PacedModel, request: InferInput) -> tuple[tuple[TensorSpec, ...], Bytes]:
        """Return the specs and the total size of one request's outputs."""
        if request.outputs:
            known = {info.name: info for info in model.outputs}
            return _specs([known[name] for name in request.outputs if name in known], request.batch_size)
        of_model = self._outputs.setdefault(model.outputs, {})
        share = of_model.get(request.batch_size)
        if share is None:
            share = of_model[request.batch_size] = _specs(model.outputs, request.batch_size)
        return share


def _specs(infos: Sequence[TensorInfo], rows: int) -> tuple[tuple[TensorSpec, ...], Bytes]:
    specs = tuple(_spec(info, rows) for info in infos)
    return specs, sum(tensor.nbytes for tensor in specs)


def _spec(info: TensorInfo, rows: int) -> TensorSpec:
    free = [rows if place == 0 else FREE_DIM for place in range(len(info.shape))]
    shape = tuple(size if dim < 0 else dim for dim, size in zip(info.shape, free, strict=True))
    if info.datatype == Datatype.BYTES:  # an empty string consists of four bytes, which are its length
        return TensorSpec(info.name, info.datatype, shape, 4 * prod(shape))
    return spec(info.name, info.datatype, shape)
