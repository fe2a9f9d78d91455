"""Defines `TorchRuntime`, which loads exported programs into host memory for CPU devices."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from clockwork.errors import InvalidModelError
from clockwork.malloc import return_large_blocks
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batching import UNDECLARED, BatchingOptions, BatchingPolicy, TrialPlan, plan_trial
from clockwork.runtimes.common import ModelRuntime, model_info
from clockwork.runtimes.examples import find_example
from clockwork.runtimes.hardware import device_kind
from clockwork.runtimes.probe import try_model
from clockwork.runtimes.torch import compiled
from clockwork.runtimes.torch.archive import ModelFile, find, read
from clockwork.runtimes.torch.compiled_model import CompiledModel, CompiledProgram, compiled_info
from clockwork.runtimes.torch.model import TorchModel, execute
from clockwork.runtimes.torch.program import Program, load
from clockwork.runtimes.torch.rows import analyse
from clockwork.runtimes.torch.tensors import accept_read_only
from clockwork.runtimes.trial import Run


def version() -> str:
    """Return the name and version of the library, such as ``torch 2.13.0+cpu``."""
    return f"torch {torch.__version__}"


def use_threads(count: int) -> None:
    """Make each executing thread of the process use ``count`` threads, including itself."""
    torch.set_num_threads(count)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


class TorchRuntime(ModelRuntime[ModelFile, TorchModel | CompiledModel]):
    """Executes exported programs with PyTorch on CPUs."""

    def __init__(
        self, threads_per_device: int = 1, allow_compiled: bool = False, batching: BatchingOptions | None = None
    ) -> None:
        """A device has ``threads_per_device`` threads, including the calling thread.

        PyTorch has one number of threads for the whole process, so all runtimes of a process should use the same
        number. If ``allow_compiled`` is true, accept files that contain compiled code, and execute this code.

        Raises:
            ValueError: threads_per_device is less than 1.
        """
        super().__init__(version(), device_kind(threads_per_device), batching)
        return_large_blocks()
        accept_read_only()
        use_threads(threads_per_device)
        self._threads = threads_per_device
        self._allow_compiled = allow_compiled

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path, by the rules of `clockwork.runtimes.locating.locate`."""
        return find(path, name, self.links)

    def _read(self, path: Path) -> ModelFile:
        return read(path)

    def _prepare(self, file: ModelFile, policy: BatchingPolicy) -> TorchModel | CompiledModel:
        if file.compiled and not self._allow_compiled:
            raise InvalidModelError(
                f"{file.path.name!r} contains native code, which the worker would execute: start the worker with "
                "--allow-compiled if you trust the author, or export the program without --compile"
            )
        return prepared(file, self._threads, policy)


def prepared(file: ModelFile, threads: int, policy: BatchingPolicy) -> TorchModel | CompiledModel:
    """Create a model from a checked file, and try it. Compiled code uses ``threads`` threads.

    Raises:
        InvalidModelError: the file is corrupt, or its code is for another kind of machine.
    """
    code = compiled.read(file.path) if file.compiled else None
    program = load(file.path)
    info = program_info(file, program, policy)
    if code is None:
        return TorchModel(info, program)
    compiled.check_weights(code, program)
    compiled_program = CompiledProgram(program, code, threads)
    return CompiledModel(
        compiled_info(info, compiled_program, eager_run(program), trial_plan(program, policy)), compiled_program
    )


def trial_plan(program: Program, policy: BatchingPolicy) -> TrialPlan:
    """Return the plan of the trial for a program, from its graph and the batching policy."""
    return plan_trial(policy, partial(analyse, program)) if program.ports.may_batch else TrialPlan(UNDECLARED)


def eager_run(program: Program) -> Run:
    """Return a function that executes the program on the CPU without compiled code, with weights in host memory."""
    arguments: list[Any] = program.arguments(program.layout.tensors(program.weights))
    return partial(execute, program, arguments)


def program_info(file: ModelFile, program: Program, policy: BatchingPolicy) -> HostModelInfo:
    """Describe a program.

    A trial on the CPU, with weights in host memory, decides whether the program can be batched.
    """
    run = eager_run(program)
    example = find_example(program.ports, run, policy.search(only_zeros=True))
    return model_info(
        program.ports,
        file.digest,
        policy,
        try_model(program.ports, run, run, trial_plan(program, policy), example),
        weights_bytes=program.layout.nbytes,
        runtime=version(),
    )
