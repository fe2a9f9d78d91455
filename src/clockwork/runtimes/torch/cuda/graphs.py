"""One captured graph for each combination of shapes, that is for each batch size, or why there is none.

Theory of operation. A replayed graph is one call for hundreds of kernels, and takes the same time every time. It reads
its inputs where they were when it was captured, so each has buffers of its own: in pinned host memory, where a batch is
put, and on the device. Outputs are copied out in the same way, and once more on the host, because the next inference
overwrites them. What cannot be captured, because the host must look at a value in between, is executed operator by
operator; that is said once for each model.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from msgspec import Struct

from clockwork.runtimes.torch.cuda.executor import Executor
from clockwork.runtimes.torch.failures import said
from clockwork.runtimes.torch.shapes import Shape

GRAPHS_MAX: Final = 32
"""For each range of weights; further combinations of shapes are executed without a graph."""

log = logging.getLogger("clockwork.worker")

Forward = Callable[[Sequence[Any]], Sequence[Any]]
"""From inputs on the device to outputs on the device."""


class Captured(Struct, frozen=True):
    """A graph with the buffers that it reads and writes."""

    replay: Callable[[], None]
    host_inputs: Sequence[Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    host_outputs: Sequence[Any]

    def queue(self) -> None:
        """Copy in, compute, copy out."""
        for to, source in zip(self.inputs, self.host_inputs, strict=True):
            to.copy_(source, non_blocking=True)
        self.replay()
        for to, source in zip(self.host_outputs, self.outputs, strict=True):
            to.copy_(source, non_blocking=True)


class Graphs:
    """The graphs of one program with its weights in one range. The EXEC thread calls it, or one that loads."""

    def __init__(self, executor: Executor, forward: Forward, digest: str) -> None:
        self._executor = executor
        self._forward = forward
        self._digest = digest
        self._graphs: dict[tuple[Shape, ...], Captured] = {}
        self.fallback = ""  #: why nothing more is captured, if so

    @property
    def known(self) -> tuple[tuple[Shape, ...], ...]:
        """The combinations of shapes that are captured."""
        return tuple(self._graphs)

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        """The outputs in host memory, for inputs there. The weights are loaded."""
        key = tuple([tuple(it.shape) for it in tensors])
        captured = self._graphs.get(key)
        if captured is None:
            captured = self._capture(key, tensors)
        if captured is None:
            return self._eager(tensors)
        for to, source in zip(captured.host_inputs, tensors, strict=True):
            to.copy_(source)
        self._executor.run(captured.queue)
        return [it.clone() for it in captured.host_outputs]

    def prepare(self, like: "Graphs") -> None:
        """Capture what has been captured for another range of the same program."""
        for key, captured in like._graphs.items():  # noqa: SLF001 - another one of the same class
            if key not in self._graphs:
                self._capture(key, captured.host_inputs)

    def _eager(self, tensors: Sequence[Any]) -> list[Any]:
        device = self._executor.device
        outputs = self._executor.eager(lambda: self._forward([it.to(device) for it in tensors]))
        return [it.cpu() for it in outputs]

    def _capture(self, key: tuple[Shape, ...], tensors: Sequence[Any]) -> Captured | None:
        if self.fallback or len(self._graphs) >= GRAPHS_MAX:
            return None
        inputs = [it.to(self._executor.device) for it in tensors]
        self._executor.eager(
            lambda: self._forward(inputs)
        )  # libraries get ready the first time, which is no part of it
        try:
            replay, outputs = self._executor.capture(lambda: self._forward(inputs))
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.fallback = said(error)
            log.warning(
                "model %.12s is executed operator by operator, because no graph of it can be captured: %s",
                self._digest,
                self.fallback,
            )
            return None
        captured = Captured(
            replay,
            [self._executor.host_buffer(it) for it in tensors],
            inputs,
            outputs,
            [self._executor.host_buffer(it) for it in outputs],
        )
        self._graphs[key] = captured
        return captured
