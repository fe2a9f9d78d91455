"""Manages one program on one device, with the addresses of its weights and its graphs.

Theory of operation. A captured graph contains the addresses of weights. Weights must therefore be loaded to the same
addresses each time. These addresses are the *first* range, for which the graphs are captured once. Several copies of a
model can be loaded at the same time. Each copy has its own pages and is copied to the device separately, so that it
costs as much as any other model. All copies contain the same bytes. So all copies are executed with the weights in the
first range. The first range is mapped before the other ranges, and unmapped after them.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

from clockwork.runtimes.torch.cuda.device import Device
from clockwork.runtimes.torch.cuda.graphs import Graphs
from clockwork.runtimes.torch.cuda.ranges import WeightsRange
from clockwork.runtimes.torch.program import Program
from clockwork.units import Nanos


class Resident:
    """A program on a device. The LOAD thread and threads that unload models call its methods."""

    def __init__(self, device: Device, program: Program, name: str) -> None:
        """Reserve the first range of addresses. ``name`` is the model's name in messages.

        Raises `CudaError` if no addresses are free.
        """
        self.device = device
        self._program = program
        self._name = name
        self._pages = device.cache.pages_of(program.layout.nbytes)
        self._lock = Lock()
        self._first = self._range()
        self._others: list[WeightsRange] = []  #: mapped ranges of further copies
        self._spare: list[WeightsRange] = []  #: unmapped ranges, kept for further copies
        self._graphs: Graphs | None = None

    @property
    def graphs(self) -> Graphs:
        """The graphs of the program. The program must have been loaded once."""
        assert self._graphs is not None
        return self._graphs

    @property
    def fits(self) -> bool:
        """Whether enough pages are free for the weights."""
        return self.device.cache.free >= self._pages

    def load(self) -> Nanos:
        """Map pages and copy the weights. Return the duration of the copy, measured with the device's clock.

        Raises:
            ServerError: too few pages are free, or the driver failed. After an error, the mapping is unchanged.
        """
        with self._lock:
            if not self._first.mapped:
                where = self._first
            else:
                where = self._spare.pop() if self._spare else self._range()
            try:
                taken = self._fill(where)
            except BaseException:
                where.unmap()
                self._put_away(where)
                raise
            if where is not self._first:
                self._others.append(where)
        return taken

    def unload(self) -> None:
        """Unmap the pages of one copy."""
        self.device.driver.attach()
        with self._lock:
            where = self._others.pop() if self._others else self._first
            where.unmap()
            self._put_away(where)

    def close(self) -> None:
        """Free the addresses. Nothing may be loaded."""
        self._graphs = None
        self.device.driver.attach()
        for weights_range in (self._first, *self._others, *self._spare):
            weights_range.close()
        self._others, self._spare = [], []

    def _range(self) -> WeightsRange:
        return WeightsRange(self.device.driver, self.device.cache, self._pages)

    def _put_away(self, where: WeightsRange) -> None:
        if where is not self._first:
            self._spare.append(where)

    def _fill(self, where: WeightsRange) -> Nanos:
        where.map()
        weights = self._program.weights
        nbytes = self._program.layout.nbytes
        taken = self.device.copy_weights(where.address, weights.data_ptr(), nbytes)
        if self._graphs is None:
            self._graphs = self._make_graphs()
        return taken

    def _make_graphs(self) -> Graphs:
        program = self._program
        block = self.device.executor.at(self._first.address, max(1, program.layout.nbytes))
        arguments = program.arguments(program.layout.tensors(block))

        def forward(inputs: Sequence[Any]) -> Sequence[Any]:
            complete = list(arguments)
            for slot, tensor in zip(program.input_slots, inputs, strict=True):
                complete[slot] = tensor
            return program.forward(*complete)

        return Graphs(self.device, forward, self._name)
