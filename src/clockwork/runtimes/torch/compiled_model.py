"""Models with compiled code. In host memory, such a model is a `CompiledModel`; on a CPU device, a `LoadedTorchModel`.

In contrast to `clockwork.runtimes.torch.model`, weights are copied to fixed addresses, because the compiled code
contains these addresses. Each loaded copy of a model uses a separate container (`clockwork.runtimes.torch.native`).
Free containers are reused.
"""

from collections.abc import Mapping
from functools import partial
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from msgspec.structs import replace

from clockwork.arrays import Array
from clockwork.errors import InvalidModelError, InvalidRequestError, ServerError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batching import TrialPlan
from clockwork.runtimes.probe import example_inputs, try_model
from clockwork.runtimes.torch.compiled import REMEDY, Code
from clockwork.runtimes.torch.failures import FAILURES, describe, execution_error
from clockwork.runtimes.torch.model import LoadedTorchModel, inputs
from clockwork.runtimes.torch.native import Container, use_own_threads
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.tensors import to_array
from clockwork.runtimes.trial import Run
from clockwork.units import show_bytes

TOLERANCE: Final = 1e-3
"""Largest accepted difference between the outputs of the code and of the program, relative to the largest output.

Outputs differ because the code adds numbers in a different order.
"""

TOLERANCE_HALF: Final = 2e-2
"""Largest accepted difference for 16-bit outputs. This limit is larger, because the code computes with 32 bits inside
fused operators.
"""

HALF: Final = 2
"""Size of a 16-bit number in bytes."""


class CompiledProgram:
    """A program, its compiled code, and the free containers of the code."""

    def __init__(self, program: Program, code: Code, threads: int) -> None:
        """``threads`` is the number of threads that compute, including the caller."""
        self.program = program
        self.code = code
        self._threads = threads
        self._lock = Lock()
        self._free: list[Container] = []

    def take(self) -> Container:
        """Return a free container after filling it with the weights.

        Raises:
            ServerError: there is not enough memory.
        """
        with self._lock:
            container = self._free.pop() if self._free else None
        try:
            if container is None:
                container = Container(self.code, self.program.layout, self.program.weight_names)
            container.fill(self.program.weights)
        except FAILURES as error:
            raise ServerError(
                f"PyTorch could not load {show_bytes(self.program.layout.nbytes)} of weights: {describe(error)}"
            ) from error
        return container

    def put_back(self, container: Container) -> None:
        """Mark the container as free, and return its memory to the system."""
        container.empty()
        with self._lock:
            self._free.append(container)

    def execute(self, container: Container, feed: Mapping[str, Array]) -> list[Array]:
        """Run the code on the CPU.

        Raises:
            InvalidRequestError: the program refuses these inputs.
            ServerError: the execution failed for another reason.
        """
        tensors = inputs(self.program, feed)
        use_own_threads(self._threads)
        try:
            with torch.inference_mode():
                return [to_array(output) for output in container.run(tensors)]
        except FAILURES as error:
            raise execution_error(error) from error


class CompiledModel:
    """A model in host memory. The model consists of a compiled program and one block with its weights."""

    def __init__(self, info: HostModelInfo, compiled: CompiledProgram) -> None:
        self.info: Final = info
        self._compiled = compiled

    def load_weights(self, device: int) -> LoadedTorchModel:
        """Copy the weights. The device does not matter, because the cores of the calling thread execute the model.

        Raises:
            ServerError: there is not enough memory.
        """
        compiled = self._compiled
        container = compiled.take()
        return LoadedTorchModel(
            self.info, lambda feed: compiled.execute(container, feed), lambda: compiled.put_back(container)
        )


def compiled_info(info: HostModelInfo, compiled: CompiledProgram, original: Run, plan: TrialPlan) -> HostModelInfo:
    """Describe a compiled program, after checking that the code computes the same outputs as the program.

    ``original`` executes the program without compiled code. ``plan`` describes the trial that decides whether the
    program can be batched.

    Raises:
        InvalidModelError: the outputs differ, or the code cannot be executed.
    """
    container = compiled.take()
    run = partial(compiled.execute, container)
    try:
        for feed in example_inputs(compiled.program.ports, original):
            for port, wanted, found in zip(compiled.program.ports.outputs, original(feed), run(feed), strict=True):
                _compare(port.info.name, wanted, found)
        unbatched = info.unbatched or try_model(compiled.program.ports, run, run, plan).unbatched
    except (InvalidRequestError, ServerError) as error:
        raise InvalidModelError(f"cannot use the compiled code: {error}; {REMEDY}") from error
    finally:
        compiled.put_back(container)
    note = f"compiled ahead for {compiled.code.description.target}"
    return replace(info, batchable=not unbatched, unbatched=unbatched, note=note)


def _compare(name: str, wanted: Array, found: Array) -> None:
    """Check that an output of the compiled code is equal to the program's output, within a tolerance."""
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        raise InvalidModelError(
            f"output {name!r} of the compiled code is {found.dtype} {list(found.shape)}; that of its program is "
            f"{wanted.dtype} {list(wanted.shape)}; {REMEDY}"
        )
    if wanted.dtype.kind not in "fV" or not wanted.size:
        return  # the last bit of a score can change an integer output, such as a class
    expected: Any = wanted.astype(np.float64)
    finite = np.isfinite(expected)
    largest = float(np.abs(expected[finite]).max(initial=0.0))
    difference = float(np.abs(expected[finite] - found.astype(np.float64)[finite]).max(initial=0.0))
    tolerance = TOLERANCE if wanted.dtype.itemsize > HALF else TOLERANCE_HALF
    if not difference <= tolerance * largest:
        raise InvalidModelError(
            f"output {name!r} of the compiled code differs by {difference:.3g} from the program's, "
            f"whose largest element is {largest:.3g}; {REMEDY}"
        )
