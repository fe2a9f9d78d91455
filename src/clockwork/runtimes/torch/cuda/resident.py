"""One program on one device: where its weights lie whenever they are there, and its graphs.

Theory of operation. A graph that was captured has the addresses of weights in it, so weights that come back must lie
where they lay: in the *first* range of addresses, for which the graphs are captured once and for all. Copies of a
model, loaded at the same time, have pages of their own, filled by a copy of their own, so that they cost what any
model costs; but they hold the same bytes. So all of them are executed with what lies in the first range, which is the
first to be mapped and the last to be unmapped.
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
    """See the module. Its LOAD thread and those that unload call it."""

    def __init__(self, device: Device, program: Program, name: str) -> None:
        """``name``: of the model, for people. Raises `CudaError` if there are no addresses."""
        self.device = device
        self._program = program
        self._name = name
        self._pages = device.cache.pages_of(program.layout.nbytes)
        self._lock = Lock()
        self._first = self._range()
        self._others: list[WeightsRange] = []  #: mapped
        self._spare: list[WeightsRange] = []  #: not mapped
        self._graphs: Graphs | None = None

    @property
    def graphs(self) -> Graphs:
        """Its graphs. It has been loaded."""
        assert self._graphs is not None
        return self._graphs

    @property
    def fits(self) -> bool:
        """Whether there are pages for it now."""
        return self.device.cache.free >= self._pages

    def load(self) -> Nanos:
        """Map pages and copy the weights; returns what the copy took by the device's clock.

        Raises:
            ServerError: the driver could not; then nothing has changed.
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
        """Take the pages of one copy away."""
        self.device.driver.attach()
        with self._lock:
            where = self._others.pop() if self._others else self._first
            where.unmap()
            self._put_away(where)

    def close(self) -> None:
        """Give the addresses back; nothing is loaded."""
        self._graphs = None
        self.device.driver.attach()
        for it in (self._first, *self._others, *self._spare):
            it.close()
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
