"""The two hands that a model passes through, on CPU devices: in host memory, and on a device.

Rules of the file: `LoadedTorchModel` is what every inference goes through. A device's weights are a copy of its own, so
that a page of a weights cache is a page of memory, as on any other device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from clockwork.arrays import Array
from clockwork.errors import ServerError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batches import Feed, LoadedArrayModel
from clockwork.runtimes.common import weights_error
from clockwork.runtimes.torch.failures import FAILURES, LIBRARY, describe, failure
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.tensors import to_array, to_tensor
from clockwork.runtimes.torch.weights import host_block
from clockwork.runtimes.trial import Run


def inputs(program: Program, feed: Mapping[str, Array]) -> list[Any]:
    """The program's inputs as tensors, in its order.

    Raises:
        InvalidRequestError: it does not take these shapes.
    """
    arrays = [feed[port.info.name] for port in program.ports.inputs]
    program.shapes.check(tuple([array.shape for array in arrays]))
    return [to_tensor(array) for array in arrays]


def execute(program: Program, arguments: Sequence[Any], feed: Mapping[str, Array]) -> list[Array]:
    """Run a program on the CPU; ``arguments`` are `Program.arguments` of its weights.

    Raises:
        InvalidRequestError: it refuses these inputs.
        ServerError: anything else.
    """
    complete = list(arguments)
    for slot, tensor in zip(program.input_slots, inputs(program, feed), strict=True):
        complete[slot] = tensor
    try:
        with torch.inference_mode():
            return [to_array(it) for it in program.forward(*complete)]
    except FAILURES as error:
        raise failure(error) from error


class TorchModel:
    """A model in host memory: a program, and its weights in one block."""

    def __init__(self, info: HostModelInfo, program: Program) -> None:
        self.info: Final = info
        self._program = program

    def load_weights(self, device: int) -> "LoadedTorchModel":
        """Copy the weights. All devices are alike; the caller's thread decides which CPU they are.

        Raises:
            ServerError: there is no memory for them.
        """
        program = self._program
        try:
            block = host_block(program.layout.nbytes)
            block.copy_(program.weights)
        except FAILURES as error:
            raise weights_error(LIBRARY, self.info.weights_bytes, device, describe(error)) from error
        arguments = program.arguments(program.layout.tensors(block))
        return LoadedTorchModel(self.info, lambda feed: execute(program, arguments, feed))


class LoadedTorchModel(LoadedArrayModel):
    """A model on a device."""

    def __init__(self, info: HostModelInfo, run: Run, release: Callable[[], None] | None = None) -> None:
        """``run`` executes it, and holds its weights. ``release`` is called when they are no longer needed."""
        super().__init__(info)
        self._run: Run | None = run
        self._release = release

    def execute(self, batch: Feed) -> list[Array]:
        """Run the model on the batch; see `execute`."""
        if self._run is None:
            raise ServerError("the model is no longer on the device")
        return self._run(batch)

    def close(self) -> None:
        """Give the weights' memory back. What was put out stays."""
        self._run = None
        if self._release is not None:
            self._release()
            self._release = None
