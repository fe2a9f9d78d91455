"""The two hands that a model passes through, on CUDA devices: in host memory, and on a device.

Rules of the file: `LoadedCudaModel` is what every inference goes through. Nothing is allocated and nothing is captured
there: `CudaModel` has done it when it was made.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from clockwork.arrays import Array
from clockwork.errors import ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.results import DeviceTime
from clockwork.runtimes.base import HostModelInfo, Payload
from clockwork.runtimes.batches import Batcher, RequestOutputs
from clockwork.runtimes.common import weights_error
from clockwork.runtimes.torch.cuda.device import Computed, Device, Staged
from clockwork.runtimes.torch.cuda.driver import CudaError, OutOfDeviceMemoryError
from clockwork.runtimes.torch.cuda.foreseen import Example, examples, layout_of
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.cuda.resident import Resident
from clockwork.runtimes.torch.failures import FAILURES, LIBRARY, describe, failure
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.shapes import Shape
from clockwork.units import Nanos, show_bytes

ValueT = TypeVar("ValueT")

_FAILURES: Final[tuple[type[Exception], ...]] = (CudaError, *FAILURES)


class Batch(NamedTuple):
    """Inputs, staged, and their shapes with the rows that fill a graph up."""

    staged: Staged
    shapes: tuple[Shape, ...]


class CudaModel:
    """A model in host memory: a program, its weights in one block, and its graphs for each device."""

    def __init__(
        self,
        info: HostModelInfo,
        program: Program,
        devices: Sequence[Device],
        budget: PinnedBudget,
        max_batch: int,
        name: str,
    ) -> None:
        """Captures all that is foreseen, on all devices. ``name`` is for people.

        Raises:
            ServerError: there is no memory for that on a device, or PyTorch cannot execute the program there.
        """
        self._info = info
        self._program = program
        self._name = name
        self._examples = list(examples(info, program, max_batch))
        self.residents = [Resident(device, program, name) for device in devices]
        self._captured = [False] * len(devices)
        self.pinned: Final = budget.pin(program.weights.data_ptr(), program.weights.nbytes)
        self.batches: Final = Batcher(info)

    @property
    def info(self) -> HostModelInfo:
        """What is known of it."""
        for it in self.residents:
            if self._captured[it.device.number] and it.graphs.fallback:
                return msgspec.structs.replace(self._info, note=f"no CUDA graph: {it.graphs.fallback}")
        return self._info

    def prepare(self) -> None:
        """Capture what is foreseen on each device that has room for the weights now; elsewhere the first load does.

        Raises:
            ServerError: it cannot be executed, or captured, there.
        """
        for resident in self.residents:
            if resident.fits:
                self.load_weights(resident.device.number).close()

    def load_weights(self, device: int) -> "LoadedCudaModel":
        """Map pages of the device's cache, and copy the weights into them.

        Raises:
            ServerError: there are not enough pages, or CUDA could not.
        """
        resident = self.residents[device]
        its = resident.device
        its.driver.attach()
        nbytes = self._info.weights_bytes
        taken = _blamed(its, resident.load, lambda error: weights_error(LIBRARY, nbytes, device, describe(error)))
        try:
            _blamed(its, lambda: self._capture(resident), failure)
        except BaseException:
            resident.unload()
            raise
        return LoadedCudaModel(self, self._info, self._program, resident, taken)

    def _capture(self, resident: Resident) -> None:
        number = resident.device.number
        if self._captured[number]:
            return
        for example in self._examples:
            if not self._capture_one(resident, example):
                break
        self._captured[number] = True

    def _capture_one(self, resident: Resident, example: Example) -> bool:
        """Whether the next size is worth trying."""
        device = resident.device

        def fill(places: list[Array]) -> None:
            for to, source in zip(places, example.arrays, strict=True):
                to[...] = source

        try:
            staged = device.stage(example.layout, fill, example.rows, example.rows)
            return resident.graphs.capture(staged, example.shapes)
        except OutOfDeviceMemoryError as error:
            free = show_bytes(device.driver.free_bytes())
            raise ServerError(
                f"capturing a graph of {self._name} for {example.rows} rows needs more memory than device "
                f"{device.number} ({device.driver.name}) has left: {free} are free beside what was taken at the start; "
                f"give less as --cache-size ({show_bytes(device.cache.nbytes)} now), more as --workspace-size, or "
                f"less as --max-batch: {describe(error)}"
            ) from error


class LoadedCudaModel:
    """A model whose weights are on a device. ``copied`` is what copying them took, by the device's clock."""

    uploads: Final = True

    def __init__(
        self, model: CudaModel, info: HostModelInfo, program: Program, resident: Resident, copied: Nanos
    ) -> None:
        self.copied = copied
        self._model: CudaModel | None = model
        self._batches = model.batches
        self._batchable = info.batchable
        self._program = program
        self._resident = resident
        self._device = resident.device

    @property
    def fallback(self) -> str:
        """Why it is executed operator by operator; empty if it is not."""
        return self._resident.graphs.fallback

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Batch:
        """One batch from the rows of several requests, put into pinned memory and sent on its way to the device.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
            ServerError: the batch does not fit into a slot.
        """
        rows = self._batches.rows(inputs, payloads)
        arrays = [rows[port.info.name] for port in self._program.ports.inputs]
        shapes = tuple(
            (sum(it.shape[0] for it in its), *its[0].shape[1:]) if self._batchable else its[0].shape for its in arrays
        )
        self._program.shapes.check(shapes)
        wanted = shapes[0][0] if self._batchable else 0
        shapes = self._filled_up(shapes)

        def fill(places: list[Array]) -> None:
            for to, its in zip(places, arrays, strict=True):
                _fill(to, its)

        staged = _blamed(
            self._device,
            lambda: self._device.stage(
                layout_of(self._program, shapes), fill, wanted, shapes[0][0] if self._batchable else 0
            ),
            failure,
        )
        return Batch(staged, shapes)

    def execute(self, batch: Batch) -> Computed:
        """Run the model on the batch; its outputs are on their way to the host then.

        Raises:
            InvalidRequestError: it refuses these inputs.
            ServerError: anything else.
        """
        work = self._resident.graphs.work(batch.staged.layout, batch.shapes)
        return _blamed(self._device, lambda: self._device.compute(batch.staged, work), failure)

    def split(self, inputs: Sequence[InferInput], outputs: Computed) -> list[RequestOutputs]:
        """Each request's share of the outputs; see `clockwork.runtimes.batches`."""
        return self._batches.split(inputs, _blamed(self._device, lambda: self._device.read(outputs), failure))

    def device_time(self, outputs: Computed) -> DeviceTime:
        """What the device took."""
        return self._device.time_of(outputs)

    def close(self) -> None:
        """Give the pages back. Nothing of it runs: `execute` waits for the device."""
        model, self._model = self._model, None
        if model is not None:
            _blamed(self._device, self._resident.unload, failure)

    def _filled_up(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """The next size that there is a graph of, if there is one."""
        known = self._resident.graphs.known
        if not self._batchable or shapes in known:
            return shapes
        rest = [it[1:] for it in shapes]
        larger = [it for it in known if it[0][0] > shapes[0][0] and [its[1:] for its in it] == rest]
        return min(larger, default=shapes)


def _fill(to: Array, arrays: list[Array]) -> None:
    """Put rows one after the other; what is left gets the last row once more: other values might mean nothing."""
    if len(arrays) == 1 and to.shape == arrays[0].shape:
        np.copyto(to, arrays[0])
        return
    rows = sum(len(it) for it in arrays)
    np.concatenate(arrays, out=to[:rows])
    to[rows:] = to[rows - 1]


def _blamed(device: Device, work: Callable[[], ValueT], meaning: Callable[[Exception], Exception]) -> ValueT:
    """Do the work; what goes wrong with it is told as ``meaning`` says, unless the device was lost with it."""
    try:
        return work()
    except _FAILURES as error:
        device.judge(error)
        raise meaning(error) from error
