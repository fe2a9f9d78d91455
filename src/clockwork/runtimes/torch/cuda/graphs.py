"""The captured graphs of one program on one device: one for each combination of shapes, that is for each batch size.

Theory of operation. A replayed graph is one call for hundreds of kernels, and takes the same time every time. It reads
from the device's input area and writes to its output area (`staging`), so it holds no memory of its own between two
replays: all graphs of a device compute in the same pool. A graph is tried before it is kept: it has to compute what the
program computes operator by operator. What cannot be captured, because the host must look at a value in between, or
what a graph computes otherwise, is executed operator by operator; that is said once for each model.

Nothing is captured while a model is served. A batch between two sizes is filled up to the next; a combination of shapes
that was not foreseen is executed operator by operator.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from clockwork.arrays import Array
from clockwork.runtimes.probe import is_close
from clockwork.runtimes.torch.cuda.device import Device, Staged
from clockwork.runtimes.torch.failures import describe
from clockwork.runtimes.torch.shapes import Shape
from clockwork.runtimes.torch.weights import Layout, contiguous

GRAPHS_MAX: Final = 16
"""For each model on each device: the powers of two up to 32,768."""

log = logging.getLogger("clockwork.worker")

Forward = Callable[[Sequence[Any]], Sequence[Any]]
"""From inputs on the device to outputs on the device."""


class _Captured(Struct, frozen=True):
    replay: Callable[[], None]
    outputs: Layout

    def replayed(self) -> Layout:
        self.replay()
        return self.outputs


class Graphs:
    """See the module. The weights are loaded whenever it is called."""

    def __init__(self, device: Device, forward: Forward, name: str) -> None:
        """``name``: of the model, for people."""
        self._device = device
        self._forward = forward
        self._name = name
        self._captured: dict[tuple[Shape, ...], _Captured] = {}
        staging, executor = device.staging, device.executor
        self._input_area = executor.at(staging.input_area, staging.slot_bytes)
        self._output_area = executor.at(staging.output_area, staging.slot_bytes)
        self._odd_said = False
        self.fallback = ""  #: why it is executed operator by operator, if so

    @property
    def known(self) -> tuple[tuple[Shape, ...], ...]:
        """The combinations of shapes that are captured."""
        return tuple(self._captured)

    def work(self, layout: Layout, shapes: tuple[Shape, ...]) -> Callable[[], Layout]:
        """What `Device.compute` is to queue for inputs of these shapes, which lie so."""
        captured = self._captured.get(shapes)
        if captured is None:
            if self._captured and not self._odd_said:
                self._odd_said = True
                text = "%s is executed operator by operator for inputs of shapes %s, of which there is no graph"
                log.warning(text, self._name, list(shapes))
            return self.operators(layout)
        return captured.replayed

    def operators(self, layout: Layout) -> Callable[[], Layout]:
        """The same, operator by operator."""
        return lambda: self._device.executor.queue(lambda: self._compute(layout))

    def capture(self, staged: Staged, shapes: tuple[Shape, ...]) -> bool:
        """Capture a graph for inputs of these shapes; whether that was possible.

        Raises:
            OutOfDeviceMemoryError: there is no memory left for it.
            ServerError: the program cannot be executed at all.
        """
        if self.fallback or len(self._captured) >= GRAPHS_MAX:
            return False
        device = self._device
        with device.turn:
            inputs = staged.layout
            device.read(device.compute(staged, self.operators(inputs)))  # libraries get ready the first time
            expected = device.read(device.compute(staged, self.operators(inputs)))
            try:
                captured = _Captured(*device.executor.capture(lambda: self._compute(inputs)))
                found = device.read(device.compute(staged, captured.replayed))
            except (RuntimeError, NotImplementedError) as error:
                device.judge(error)
                self._give_up(describe(error))
            else:
                if _same(expected, found):
                    self._captured[shapes] = captured
                else:
                    self._give_up("a graph computes something else")
        return not self.fallback

    def _give_up(self, reason: str) -> None:
        self.fallback = reason
        text = "%s is executed operator by operator, because no graph of it can be captured: %s"
        log.warning(text, self._name, reason)

    def _compute(self, layout: Layout) -> Layout:
        outputs = self._forward(layout.tensors(self._input_area))
        made = contiguous([(it.dtype, tuple(it.shape)) for it in outputs])
        self._device.staging.check_fits(made.nbytes, "outputs")
        for to, output in zip(made.tensors(self._output_area), outputs, strict=True):
            to.copy_(output)
        return made


def _same(expected: list[Array], found: list[Array]) -> bool:
    """As far as kernels that add in any order allow."""
    return len(expected) == len(found) and all(map(is_close, expected, found))
