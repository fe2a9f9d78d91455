"""The two hands that a compiled program passes through, on CPU devices.

Rules of the file: as `clockwork.runtimes.torch.model`, but weights are copied to addresses that stay, because compiled
code has them in it. A container is of one loaded copy at a time; those that are free are taken again.
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
from clockwork.runtimes.torch.compiled import HOW, Code
from clockwork.runtimes.torch.failures import FAILURES, describe, failure
from clockwork.runtimes.torch.model import LoadedTorchModel, inputs
from clockwork.runtimes.torch.native import Container, hold_threads
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.tensors import to_array
from clockwork.runtimes.trial import Run
from clockwork.units import show_bytes

TOLERANCE: Final = 1e-3
"""How far the code's outputs may be from the program's, as a part of the largest; kernels add in another order."""

TOLERANCE_HALF: Final = 2e-2
"""The same where outputs have 16 bits: between operators that became one, the code computes with 32."""

HALF: Final = 2
"""Bytes of such numbers."""


class CompiledProgram:
    """A program, the code that was compiled from it, and containers of it."""

    def __init__(self, program: Program, code: Code, threads: int) -> None:
        """``threads``: so many compute together, the caller among them."""
        self.program = program
        self.code = code
        self._threads = threads
        self._lock = Lock()
        self._free: list[Container] = []

    def take(self) -> Container:
        """A container that nobody else has, with the weights in it.

        Raises:
            ServerError: there is no memory for them.
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
        """The container is free; its memory goes back to the system."""
        container.empty()
        with self._lock:
            self._free.append(container)

    def execute(self, container: Container, feed: Mapping[str, Array]) -> list[Array]:
        """Run the code on the CPU.

        Raises:
            InvalidRequestError: it refuses these inputs.
            ServerError: anything else.
        """
        tensors = inputs(self.program, feed)
        hold_threads(self._threads)
        try:
            with torch.inference_mode():
                return [to_array(it) for it in container.run(tensors)]
        except FAILURES as error:
            raise failure(error) from error


class CompiledModel:
    """A model in host memory: a compiled program, and its weights in one block."""

    def __init__(self, info: HostModelInfo, compiled: CompiledProgram) -> None:
        self.info: Final = info
        self._compiled = compiled

    def load_weights(self, device: int) -> LoadedTorchModel:
        """Copy the weights. All devices are alike; the caller's thread decides which CPU they are.

        Raises:
            ServerError: there is no memory for them.
        """
        compiled = self._compiled
        container = compiled.take()
        return LoadedTorchModel(
            self.info, lambda feed: compiled.execute(container, feed), lambda: compiled.put_back(container)
        )


def compiled_info(info: HostModelInfo, compiled: CompiledProgram, original: Run, plan: TrialPlan) -> HostModelInfo:
    """What is known of a compiled program: that of the program, and that the code computes what the program does.

    ``original`` executes the program as it is; ``plan`` is the plan of its trial.

    Raises:
        InvalidModelError: it does not.
    """
    container = compiled.take()
    run = partial(compiled.execute, container)
    try:
        for feed in example_inputs(compiled.program.ports, original):
            for port, wanted, found in zip(compiled.program.ports.outputs, original(feed), run(feed), strict=True):
                _compare(port.info.name, wanted, found)
        unbatched = info.unbatched or try_model(compiled.program.ports, run, run, plan).unbatched
    except (InvalidRequestError, ServerError) as error:
        raise InvalidModelError(f"the compiled code cannot be used: {error}; {HOW}") from error
    finally:
        compiled.put_back(container)
    note = f"compiled ahead for {compiled.code.description.target}"
    return replace(info, batchable=not unbatched, unbatched=unbatched, note=note)


def _compare(name: str, wanted: Array, found: Array) -> None:
    """Whether the compiled code computes what its program does."""
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        raise InvalidModelError(
            f"output {name!r} of the compiled code is {found.dtype} {list(found.shape)}, and that of its program "
            f"{wanted.dtype} {list(wanted.shape)}; {HOW}"
        )
    if wanted.dtype.kind not in "fV" or not wanted.size:
        return  # a class or a token may tip over for a last bit
    expected: Any = wanted.astype(np.float64)
    finite = np.isfinite(expected)
    largest = float(np.abs(expected[finite]).max(initial=0.0))
    difference = float(np.abs(expected[finite] - found.astype(np.float64)[finite]).max(initial=0.0))
    tolerance = TOLERANCE if wanted.dtype.itemsize > HALF else TOLERANCE_HALF
    if not difference <= tolerance * largest:
        raise InvalidModelError(
            f"output {name!r} of the compiled code is {difference:.3g} off where its program gives at most "
            f"{largest:.3g}; {HOW}"
        )
