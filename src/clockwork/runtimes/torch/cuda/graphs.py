"""Captures and replays the graphs of one program on one device. There is one graph for each batch size.

More precisely, there is one graph for each combination of input shapes. Usually, only the batch size differs.

Theory of operation. A replay of a graph is one call for hundreds of kernels, and always takes the same time. A graph
reads from the device's input area and writes to its output area (`staging`). So a graph needs no memory between two
replays, and all graphs of a device share one pool. A graph is kept only if its outputs are the same as when the program
is executed operator by operator. Some programs cannot be captured, because the host must read a computed value during
the execution. Such programs, and programs whose graph computes different outputs, are executed operator by operator.
The log reports this once for each model.

While a model is served, no graph is captured. A batch between two sizes is padded to the larger size. A batch with
other shapes is executed operator by operator.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from clockwork.arrays import Array
from clockwork.runtimes.probe import is_close
from clockwork.runtimes.torch.cuda.device import Device, StagedInputs
from clockwork.runtimes.torch.failures import describe
from clockwork.runtimes.torch.shapes import Shape
from clockwork.runtimes.torch.weights import Layout, contiguous

MAX_GRAPHS: Final = 16
"""Limit of the number of graphs of each model on each device. The limit allows one graph for each power of two up to
32,768.
"""

log = logging.getLogger("clockwork.worker")

Forward = Callable[[Sequence[Any]], Sequence[Any]]
"""A function that takes inputs on the device and returns outputs on the device."""


class _Captured(Struct, frozen=True):
    replay: Callable[[], None]
    outputs: Layout

    def replayed(self) -> Layout:
        self.replay()
        return self.outputs


class Graphs:
    """The graphs of a program. The weights must be loaded during each call."""

    def __init__(self, device: Device, forward: Forward, name: str) -> None:
        """``name`` is the model's name in log messages."""
        self._device = device
        self._forward = forward
        self._name = name
        self._captured: dict[tuple[Shape, ...], _Captured] = {}
        staging, executor = device.staging, device.executor
        self._input_area = executor.at(staging.input_area, staging.slot_bytes)
        self._output_area = executor.at(staging.output_area, staging.slot_bytes)
        self._warned = False
        self.fallback = ""  #: why the program is executed operator by operator; empty if graphs are used

    @property
    def known(self) -> tuple[tuple[Shape, ...], ...]:
        """The captured combinations of shapes."""
        return tuple(self._captured)

    def work(self, layout: Layout, shapes: tuple[Shape, ...]) -> Callable[[], Layout]:
        """Return the function that `Device.compute` calls for inputs of these shapes in this layout."""
        captured = self._captured.get(shapes)
        if captured is None:
            if self._captured and not self._warned:
                self._warned = True
                text = "model %s has no graph for inputs of shapes %s and executes them operator by operator"
                log.warning(text, self._name, list(shapes))
            return self.operators(layout)
        return captured.replayed

    def operators(self, layout: Layout) -> Callable[[], Layout]:
        """Return a function for `Device.compute` that executes the program operator by operator."""
        return lambda: self._device.executor.queue(lambda: self._compute(layout))

    def capture(self, staged: StagedInputs, shapes: tuple[Shape, ...]) -> bool:
        """Capture a graph for inputs of these shapes. Return whether that was possible.

        Raises:
            OutOfDeviceMemoryError: there is too little memory for the graph.
            ServerError: the program cannot be executed at all.
        """
        if self.fallback or len(self._captured) >= MAX_GRAPHS:
            return False
        device = self._device
        with device.exec_lock:
            inputs = staged.layout
            device.read(device.compute(staged, self.operators(inputs)))  # the first execution initialises libraries
            expected = device.read(device.compute(staged, self.operators(inputs)))
            try:
                captured = _Captured(*device.executor.capture(lambda: self._compute(inputs)))
                found = device.read(device.compute(staged, captured.replayed))
            except (RuntimeError, NotImplementedError) as error:
                device.check_alive(error)
                self._fall_back(describe(error))
            else:
                if _same(expected, found):
                    self._captured[shapes] = captured
                else:
                    self._fall_back("a graph computes other outputs")
        return not self.fallback

    def _fall_back(self, reason: str) -> None:
        self.fallback = reason
        text = "model %s cannot be captured as a graph and is executed operator by operator: %s"
        log.warning(text, self._name, reason)

    def _compute(self, layout: Layout) -> Layout:
        outputs = self._forward(layout.tensors(self._input_area))
        copies = contiguous([(output.dtype, tuple(output.shape)) for output in outputs])
        self._device.staging.check_fits(copies.nbytes, "outputs")
        for to, output in zip(copies.tensors(self._output_area), outputs, strict=True):
            to.copy_(output)
        return copies


def _same(expected: list[Array], found: list[Array]) -> bool:
    """Return whether outputs are equal within a tolerance, because kernels may add numbers in any order."""
    return len(expected) == len(found) and all(map(is_close, expected, found))
