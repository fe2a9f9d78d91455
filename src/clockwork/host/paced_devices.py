"""Paced devices on the real clock: what ``clockwork worker --emulate`` runs instead of threads and a runtime.

Rules of the file: everything happens on the event loop; nothing is decided here. Outputs are zeros of the right size.
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
"""What an output's free dimensions are set to, but the batch's."""


class PacedDevices:
    """See `clockwork.host.devices.Devices`. Make it and use it on one running event loop."""

    def __init__(
        self,
        core: WorkerCore,
        models: Mapping[str, PacedModel],
        durations: Sequence[DurationModel],
        clock: Clock,
        on_answers: Callable[[], None],
    ) -> None:
        """``models`` by path, ``durations`` by device; ``on_answers``: there is something for `take_results`."""
        self.core = core
        self._clock = clock
        worker = PacedWorker(core, models, durations)
        self._runner: MachineRunner[Event, ResultCommand] = MachineRunner(worker, clock, self._answered)
        self._answers: list[ResultCommand] = []
        self._on_answers = on_answers
        self._outputs: dict[tuple[TensorInfo, ...], dict[int, tuple[tuple[TensorSpec, ...], Bytes]]] = {}
        self._zeros = memoryview(b"")

    def start(self) -> None:
        """Nothing is to be started."""

    async def end(self) -> None:
        """Whatever runs ends here."""
        self._runner.close()

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """The controller has sent an action. What is late is answered without being asked."""
        self._runner.feed(ActionReceived(action, payloads))
        return None

    def expire(self) -> Nanos | None:
        """Nothing: see `act`."""
        return None

    def controller_lost(self) -> None:
        """There is nobody to send results to; those not taken yet are dropped."""
        self._runner.feed(ControllerLost())
        self._answers.clear()

    def leave(self) -> None:
        """Begin nothing more; what waits and what comes is refused, what runs goes on."""
        self._runner.feed(Leave())

    def owes_results(self) -> bool:
        """Whether something runs whose result the controller waits for."""
        return self.core.owes_results

    def take_results(self) -> list[ResultToSend]:
        """What the actions have come to since this was last called, in order."""
        answers, self._answers = self._answers, []
        return [self._finish(it) if isinstance(it, SendOutputs) else ResultToSend(it.result) for it in answers]

    def _answered(self, answer: ResultCommand) -> None:
        if not self._answers:
            self._on_answers()
        self._answers.append(answer)

    def _finish(self, sent: SendOutputs) -> ResultToSend:
        model: Any = sent.outputs
        made = [self._share(model, share) for share in sent.action.inputs]
        outputs = tuple(
            [InferOutput(it.request_id, share[0]) for it, share in zip(sent.action.inputs, made, strict=True)]
        )
        end = sent.exec.end
        result = InferResult(sent.action.id, outputs, sent.copy_input, sent.exec, Timing(end, end, 0))
        nbytes = sum([share[1] for share in made])
        if len(self._zeros) < nbytes:
            self._zeros = memoryview(bytes(nbytes))
        return ResultToSend(result, [self._zeros[:nbytes]] if nbytes else [])

    def _share(self, model: PacedModel, it: InferInput) -> tuple[tuple[TensorSpec, ...], Bytes]:
        """One request's outputs, and their size."""
        if it.outputs:
            known = {info.name: info for info in model.outputs}
            return _specs([known[name] for name in it.outputs if name in known], it.batch_size)
        of_model = self._outputs.setdefault(model.outputs, {})
        made = of_model.get(it.batch_size)
        if made is None:
            made = of_model[it.batch_size] = _specs(model.outputs, it.batch_size)
        return made


def _specs(infos: Sequence[TensorInfo], rows: int) -> tuple[tuple[TensorSpec, ...], Bytes]:
    specs = tuple(_spec(info, rows) for info in infos)
    return specs, sum(it.nbytes for it in specs)


def _spec(info: TensorInfo, rows: int) -> TensorSpec:
    free = [rows if place == 0 else FREE_DIM for place in range(len(info.shape))]
    shape = tuple(size if dim < 0 else dim for dim, size in zip(info.shape, free, strict=True))
    if info.datatype == Datatype.BYTES:  # an empty string is four bytes of length
        return TensorSpec(info.name, info.datatype, shape, 4 * prod(shape))
    return spec(info.name, info.datatype, shape)
