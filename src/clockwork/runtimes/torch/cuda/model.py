"""The two forms of a model for CUDA devices: in host memory (`CudaModel`) and on a device (`LoadedCudaModel`).

`LoadedCudaModel` executes every inference, and never allocates memory or captures a graph. `CudaModel` allocates memory
and captures graphs before the model is served.
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
from clockwork.runtimes.torch.cuda.device import ComputedOutputs, Device, StagedInputs
from clockwork.runtimes.torch.cuda.driver import CudaError, OutOfDeviceMemoryError
from clockwork.runtimes.torch.cuda.examples import Example, examples, layout_of
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.cuda.resident import Resident
from clockwork.runtimes.torch.failures import FAILURES, LIBRARY, describe, execution_error
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.shapes import Shape
from clockwork.units import Nanos, show_bytes

ValueT = TypeVar("ValueT")

_FAILURES: Final[tuple[type[Exception], ...]] = (CudaError, *FAILURES)


class StagedBatch(NamedTuple):
    """Staged inputs and their shapes. The shapes include the rows that pad the batch to the size of a graph."""

    staged: StagedInputs
    shapes: tuple[Shape, ...]


class CudaModel:
    """A model in host memory.

    The model consists of a program, one block with its weights, and its graphs for each device.
    """

    def __init__(
        self,
        info: HostModelInfo,
        program: Program,
        devices: Sequence[Device],
        budget: PinnedBudget,
        max_batch: int,
        name: str,
    ) -> None:
        """Create a model for all devices. Call `prepare` to capture its graphs.

        ``name`` is the model's name in messages.

        Raises:
            CudaError: the driver has no addresses for the weights.
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
        """Description of the model, with a note if the model has no CUDA graph."""
        for resident in self.residents:
            if self._captured[resident.device.number] and resident.graphs.fallback:
                return msgspec.structs.replace(self._info, note=f"no CUDA graph: {resident.graphs.fallback}")
        return self._info

    def prepare(self) -> None:
        """Capture the graphs on each device with enough free pages. On other devices, the first load captures them.

        Raises:
            ServerError: the program cannot be executed or captured on a device.
        """
        for resident in self.residents:
            if resident.fits:
                self.load_weights(resident.device.number).close()

    def load_weights(self, device: int) -> "LoadedCudaModel":
        """Map pages of the device's cache, and copy the weights into them.

        Raises:
            ServerError: too few pages are free, or CUDA failed.
        """
        resident = self.residents[device]
        resident.device.driver.attach()
        nbytes = self._info.weights_bytes
        taken = _translated(
            resident.device, resident.load, lambda error: weights_error(LIBRARY, nbytes, device, describe(error))
        )
        try:
            _translated(resident.device, lambda: self._capture(resident), execution_error)
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
        """Capture a graph for one batch size. Return whether to try the next batch size."""
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
                f"device {device.number} ({device.driver.name}) has too little memory to capture a graph of "
                f"{self._name} for {example.rows} rows: {free} are free; use a smaller --cache-size (now "
                f"{show_bytes(device.cache.nbytes)}), a larger --workspace-size, or a smaller --max-batch: "
                f"{describe(error)}"
            ) from error


class LoadedCudaModel:
    """A model whose weights are on a device.

    ``copied`` is the time that the copy of the weights took, measured with the device's clock.
    """

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
        """Reason why the model is executed operator by operator, or an empty text if the model has graphs."""
        return self._resident.graphs.fallback

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> StagedBatch:
        """Write the rows of several requests to pinned memory as one batch, and start the copy to the device.

        Raises:
            InvalidRequestError: a payload does not match its specs or the model.
            ServerError: the batch does not fit into a slot.
        """
        rows = self._batches.rows(inputs, payloads)
        arrays = [rows[port.info.name] for port in self._program.ports.inputs]
        shapes = tuple(
            (sum(part.shape[0] for part in parts), *parts[0].shape[1:]) if self._batchable else parts[0].shape
            for parts in arrays
        )
        self._program.shapes.check(shapes)
        wanted = shapes[0][0] if self._batchable else 0
        shapes = self._padded_shapes(shapes)

        def fill(places: list[Array]) -> None:
            for to, rows in zip(places, arrays, strict=True):
                _fill(to, rows)

        staged = _translated(
            self._device,
            lambda: self._device.stage(
                layout_of(self._program, shapes), fill, wanted, shapes[0][0] if self._batchable else 0
            ),
            execution_error,
        )
        return StagedBatch(staged, shapes)

    def execute(self, batch: StagedBatch) -> ComputedOutputs:
        """Run the model on the batch. When this method returns, the copy of the outputs to the host has started.

        Raises:
            InvalidRequestError: the model refuses these inputs.
            ServerError: the execution failed for another reason.
        """
        work = self._resident.graphs.work(batch.staged.layout, batch.shapes)
        return _translated(self._device, lambda: self._device.compute(batch.staged, work), execution_error)

    def split(self, inputs: Sequence[InferInput], outputs: ComputedOutputs) -> list[RequestOutputs]:
        """Return the outputs of each request; see `clockwork.runtimes.batches`."""
        return self._batches.split(
            inputs, _translated(self._device, lambda: self._device.read(outputs), execution_error)
        )

    def device_time(self, outputs: ComputedOutputs) -> DeviceTime:
        """Return the time that the device took for the batch."""
        return self._device.device_time(outputs)

    def close(self) -> None:
        """Free the pages. No inference can be running, because `execute` waits for the device."""
        model, self._model = self._model, None
        if model is not None:
            _translated(self._device, self._resident.unload, execution_error)

    def _padded_shapes(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """Return the shapes of the next larger batch that has a graph, or the same shapes if there is no such graph."""
        known = self._resident.graphs.known
        if not self._batchable or shapes in known:
            return shapes
        rest = [shape[1:] for shape in shapes]
        larger = [one for one in known if one[0][0] > shapes[0][0] and [shape[1:] for shape in one] == rest]
        return min(larger, default=shapes)


def _fill(to: Array, arrays: list[Array]) -> None:
    """Write the rows one after another, and fill the rest with copies of the last row.

    Zeros, for example, might be invalid inputs.
    """
    if len(arrays) == 1 and to.shape == arrays[0].shape:
        np.copyto(to, arrays[0])
        return
    rows = sum(len(array) for array in arrays)
    np.concatenate(arrays, out=to[:rows])
    to[rows:] = to[rows - 1]


def _translated(device: Device, work: Callable[[], ValueT], translate: Callable[[Exception], Exception]) -> ValueT:
    """Call ``work``.

    If it fails, raise the error that ``translate`` returns or, if the device is lost, `DeviceLostError`.
    """
    try:
        return work()
    except _FAILURES as error:
        device.check_alive(error)
        raise translate(error) from error
