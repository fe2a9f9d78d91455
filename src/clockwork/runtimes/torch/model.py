"""The two forms of a model for CPU devices: in host memory (`TorchModel`) and on a device (`LoadedTorchModel`).

`LoadedTorchModel` executes every inference. Each device has its own copy of the weights. So each page of the device's
weights cache stands for real memory, as on GPUs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from clockwork.arrays import Array
from clockwork.errors import ServerError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batches import Feed, LoadedArrayModel
from clockwork.runtimes.common import weights_error
from clockwork.runtimes.torch.failures import FAILURES, LIBRARY, describe, execution_error
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.tensors import to_array, to_tensor
from clockwork.runtimes.torch.weights import host_block
from clockwork.runtimes.trial import Run


def inputs(program: Program, feed: Mapping[str, Array]) -> list[Any]:
    """Return the inputs as tensors, in the program's order.

    Raises:
        InvalidRequestError: the program does not accept these shapes.
    """
    arrays = [feed[port.info.name] for port in program.ports.inputs]
    program.shapes.check(tuple([array.shape for array in arrays]))
    return [to_tensor(array) for array in arrays]


def execute(program: Program, arguments: Sequence[Any], feed: Mapping[str, Array]) -> list[Array]:
    """Run a program on the CPU. ``arguments`` are the result of `Program.arguments` with the weights.

    Raises:
        InvalidRequestError: the program refuses these inputs.
        ServerError: the execution failed for another reason.
    """
    complete = list(arguments)
    for slot, tensor in zip(program.input_slots, inputs(program, feed), strict=True):
        complete[slot] = tensor
    try:
        with torch.inference_mode():
            return [to_array(output) for output in program.forward(*complete)]
    except FAILURES as error:
        raise execution_error(error) from error


class TorchModel:
    """A model in host memory. The model consists of a program and one block with its weights."""

    def __init__(self, info: HostModelInfo, program: Program) -> None:
        self.info: Final = info
        self._program = program

    def load_weights(self, device: int) -> "LoadedTorchModel":
        """Copy the weights. The device does not matter, because the cores of the calling thread execute the model.

        Raises:
            ServerError: there is not enough memory.
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
    """A model whose weights are on a device."""

    def __init__(self, info: HostModelInfo, run: Run, release: Callable[[], None] | None = None) -> None:
        """``run`` executes the model and holds its weights.

        ``release`` is called when the weights are no longer needed.
        """
        super().__init__(info)
        self._run: Run | None = run
        self._release = release

    def execute(self, batch: Feed) -> list[Array]:
        """Run the model on the batch; see `execute`."""
        if self._run is None:
            raise ServerError("the model is no longer on the device")
        return self._run(batch)

    def close(self) -> None:
        """Free the memory of the weights. Outputs of earlier inferences stay valid."""
        self._run = None
        if self._release is not None:
            self._release()
            self._release = None
