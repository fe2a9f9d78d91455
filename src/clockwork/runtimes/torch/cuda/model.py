"""The two hands that a model passes through, on CUDA devices: in host memory, and on a device.

Rules of the file: a `Slot` outlives its weights: addresses, arguments and graphs are made once. LoadWeights takes a
free slot of its model on its device, or makes one; EvictWeights leaves it free.
"""

import weakref
from collections.abc import Sequence
from threading import Lock
from typing import Any

from msgspec import Struct

from clockwork.arrays import Array
from clockwork.errors import ServerError
from clockwork.messages.actions import InferInput
from clockwork.runtimes.base import HostModelInfo, Payload
from clockwork.runtimes.batches import Batches, Feed, Share
from clockwork.runtimes.torch.cuda.driver import Driver, Handle
from clockwork.runtimes.torch.cuda.executor import Executor
from clockwork.runtimes.torch.cuda.graphs import Graphs
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.cuda.ranges import WeightsRange
from clockwork.runtimes.torch.failures import FAILURES, failure, said
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.tensors import to_array, to_tensor
from clockwork.units import Nanos, show_bytes


class Device(Struct, frozen=True):
    """All that there is of one device; its LOAD thread has the stream and the two events to itself."""

    driver: Driver
    cache: PageCache
    executor: Executor
    stream: Handle
    begin: Handle
    end: Handle


class Slot:
    """Where weights of one model lie on one device, whenever they are there."""

    def __init__(self, device: Device, program: Program) -> None:
        self.device = device
        self._program = program
        self._range = WeightsRange(device.driver, device.cache, device.cache.pages_of(program.layout.nbytes))
        self.graphs: Graphs | None = None

    def load(self, digest: str) -> Nanos:
        """Map pages and copy the weights; returns what the copy took by the device's clock.

        Raises:
            ServerError: the driver, or PyTorch, could not; then nothing is mapped.
        """
        self._range.map()
        try:
            taken = self._copy()
            if self.graphs is None:
                self.graphs = self._graphs(digest)
        except BaseException:
            self._range.unmap()
            raise
        return taken

    def unload(self) -> None:
        """Take the pages away."""
        self.device.driver.attach()
        self._range.unmap()

    def close(self) -> None:
        """Give the addresses back."""
        self.graphs = None
        self.device.driver.attach()
        self._range.close()

    def _copy(self) -> Nanos:
        device, driver = self.device, self.device.driver
        driver.record(device.begin, device.stream)
        if self._program.layout.nbytes:
            source = self._program.weights.data_ptr()
            driver.copy_to_device(self._range.address, source, self._program.layout.nbytes, device.stream)
        driver.record(device.end, device.stream)
        driver.wait(device.end)
        return driver.elapsed(device.begin, device.end)

    def _graphs(self, digest: str) -> Graphs:
        program = self._program
        block = self.device.executor.at(self._range.address, max(1, program.layout.nbytes))
        arguments = program.arguments(program.layout.tensors(block))

        def forward(inputs: Sequence[Any]) -> Sequence[Any]:
            complete = list(arguments)
            for slot, tensor in zip(program.input_slots, inputs, strict=True):
                complete[slot] = tensor
            return program.forward(*complete)

        return Graphs(self.device.executor, forward, digest)


class CudaModel:
    """A model in host memory: a program for CUDA devices, its weights in one block, pinned if the budget allows it."""

    def __init__(self, info: HostModelInfo, program: Program, devices: Sequence[Device], budget: PinnedBudget) -> None:
        self._info = info
        self._program = program
        self._devices = devices
        self._lock = Lock()
        #: Of each device: those that are free, and one that has been used, whose graphs others capture as well.
        self._free: list[list[Slot]] = [[] for _ in devices]
        self._first: list[Slot | None] = [None] * len(devices)
        address, nbytes = program.weights.data_ptr(), program.weights.nbytes
        self.pinned = budget.pin(address, nbytes)
        # Loaded models refer to their model, so all slots are free when nobody refers to it any more.
        self._end = weakref.finalize(self, _end, self._free, budget, address, program)

    @property
    def info(self) -> HostModelInfo:
        """What is known of it."""
        return self._info

    def load_weights(self, device: int) -> "LoadedCudaModel":
        """Map pages of the device's cache, and copy the weights into them.

        Raises:
            ServerError: there are not enough pages, or CUDA could not.
        """
        its = self._devices[device]
        its.driver.attach()
        try:
            with self._lock:
                slot = self._free[device].pop() if self._free[device] else None
            if slot is None:
                slot = Slot(its, self._program)
            try:
                taken = slot.load(self._info.digest)
                self._prepare(device, slot)
            except BaseException:
                self.free(device, slot)
                raise
        except (ServerError, *FAILURES) as error:
            raise ServerError(
                f"{show_bytes(self._info.weights_bytes)} of weights could not be loaded on device {device}: "
                f"{said(error)}"
            ) from error
        return LoadedCudaModel(self, self._info, self._program, device, slot, taken)

    def free(self, device: int, slot: Slot) -> None:
        """A slot of this model is used no more: its pages go back, its addresses stay."""
        slot.unload()
        with self._lock:
            self._free[device].append(slot)

    def _prepare(self, device: int, slot: Slot) -> None:
        """A further slot captures what the first one has, so that no inference has to."""
        first = self._first[device]
        if first is None:
            self._first[device] = slot
        elif first is not slot and slot.graphs is not None and first.graphs is not None:
            slot.graphs.prepare(first.graphs)


def _end(slots: list[list[Slot]], budget: PinnedBudget, address: int, program: Program) -> None:
    """``program`` holds the memory that is unpinned."""
    for its in slots:
        for slot in its:
            slot.close()
        its.clear()
    budget.unpin(address)
    del program


class LoadedCudaModel:
    """A model whose weights are on a device. ``copied`` is what copying them took, by the device's clock."""

    def __init__(
        self, model: CudaModel, info: HostModelInfo, program: Program, device: int, slot: Slot, copied: Nanos
    ) -> None:
        self.copied = copied
        self._model: CudaModel | None = model
        self._slot = slot
        self._device = device
        self._batches = Batches(info)
        self._program = program

    @property
    def fallback(self) -> str:
        """Why it is executed operator by operator; empty if it is not."""
        return self._slot.graphs.fallback if self._slot.graphs is not None else ""

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Feed:
        """One batch from the rows of several requests; see `clockwork.runtimes.batches`."""
        return self._batches.assemble(inputs, payloads)

    def execute(self, batch: Feed) -> list[Array]:
        """Run the model on the batch.

        Raises:
            InvalidRequestError: it refuses these inputs.
            ServerError: anything else.
        """
        arrays = [batch[port.info.name] for port in self._program.ports.inputs]
        self._program.shapes.check(tuple([array.shape for array in arrays]))
        assert self._slot.graphs is not None
        try:
            return [to_array(it) for it in self._slot.graphs.run([to_tensor(array) for array in arrays])]
        except FAILURES as error:
            raise failure(error) from error

    def split(self, inputs: Sequence[InferInput], outputs: list[Array]) -> list[Share]:
        """Each request's share of the outputs; see `clockwork.runtimes.batches`."""
        return self._batches.split(inputs, outputs)

    def close(self) -> None:
        """Give the pages back. Nothing of it runs: `execute` waits for the device."""
        model, self._model = self._model, None
        if model is not None:
            model.free(self._device, self._slot)
