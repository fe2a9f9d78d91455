"""`TorchRuntime`: from a path to a model in host memory, for CPU devices."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from clockwork.errors import InvalidModelError
from clockwork.heap import give_back
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batching import UNDECLARED, BatchingOptions, Claim, Wish, claim
from clockwork.runtimes.hardware import device_kind
from clockwork.runtimes.probe import examine
from clockwork.runtimes.sharing import ModelsInUse
from clockwork.runtimes.torch import compiled
from clockwork.runtimes.torch.archive import ModelFile, find, read
from clockwork.runtimes.torch.compiled_model import CompiledModel, CompiledProgram, compiled_info
from clockwork.runtimes.torch.model import TorchModel, execute
from clockwork.runtimes.torch.program import Program, load
from clockwork.runtimes.torch.rows import analyse
from clockwork.runtimes.torch.tensors import accept_read_only
from clockwork.runtimes.trial import Run


def version() -> str:
    """Name and version, ``torch 2.13.0+cpu``."""
    return f"torch {torch.__version__}"


def use_threads(count: int) -> None:
    """Let each thread that executes compute with ``count`` threads, itself included; for the whole process."""
    torch.set_num_threads(count)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


class TorchRuntime:
    """Executes exported programs with PyTorch on CPUs. See `clockwork.runtimes.base.Runtime`.

    A device is ``threads_per_device`` threads; the first is the one that calls. PyTorch has one such number for each
    process, so the runtimes of one process should agree.
    """

    def __init__(
        self, threads_per_device: int = 1, allow_compiled: bool = False, batching: BatchingOptions | None = None
    ) -> None:
        """``allow_compiled``: files with compiled code are accepted, which is executed as it is.

        Raises:
            ValueError: a device without threads.
        """
        if threads_per_device < 1:
            raise ValueError(f"threads_per_device is {threads_per_device}; a device has at least one thread")
        give_back()
        accept_read_only()
        use_threads(threads_per_device)
        self._kind = device_kind(threads_per_device)
        self._threads = threads_per_device
        self._allow_compiled = allow_compiled
        self._batching = batching or BatchingOptions()
        self._models = ModelsInUse[TorchModel | CompiledModel]()

    @property
    def version(self) -> str:
        """Name and version, ``torch 2.13.0+cpu``."""
        return version()

    @property
    def device_kind(self) -> str:
        """The CPU and the threads that a device uses of it."""
        return self._kind

    def load_model(self, path: Path, name: str = "") -> TorchModel | CompiledModel:
        """Read and try a model. A model of the same content that is still in use is returned as it is.

        Models of one content for which the operator wishes different things are different models.

        Raises:
            InvalidModelError: not a model of this runtime, or a broken one.
        """
        wish = self._batching.of(name, path)
        file = read(find(path))
        return self._models.get(wish.digest(file.digest), partial(self._load, file, wish))

    def _load(self, file: ModelFile, wish: Wish) -> TorchModel | CompiledModel:
        if file.compiled and not self._allow_compiled:
            raise InvalidModelError(
                f"{file.path.name!r} has compiled code in it, which would be executed as it is: start the worker with "
                "--allow-compiled if you trust whoever made it, or export it without --compile"
            )
        return prepared(file, self._threads, wish)


def prepared(file: ModelFile, threads: int, wish: Wish) -> TorchModel | CompiledModel:
    """A model from a checked file, tried; compiled code in it computes with ``threads`` threads.

    Raises:
        InvalidModelError: a broken one, or not for this machine.
    """
    code = compiled.read(file.path) if file.compiled else None
    program = load(file.path)
    info = host_info(file, program, wish)
    if code is None:
        return TorchModel(info, program)
    compiled.check_weights(code, program)
    made = CompiledProgram(program, code, threads)
    return CompiledModel(compiled_info(info, made, as_it_is(program), claimed(program, wish)), made)


def claimed(program: Program, wish: Wish) -> Claim:
    """What the program and the operator say about batching."""
    return claim(wish, partial(analyse, program)) if program.ports.may_batch else Claim(UNDECLARED)


def as_it_is(program: Program) -> Run:
    """A program on the CPU, with its weights in host memory."""
    arguments: list[Any] = program.arguments(program.layout.tensors(program.weights))
    return partial(execute, program, arguments)


def host_info(file: ModelFile, program: Program, wish: Wish) -> HostModelInfo:
    """What is known of a program. Whether it can be batched is tried on the CPU, with the weights in host memory."""
    run = as_it_is(program)
    unbatched = examine(program.ports, run, run, claimed(program, wish)).unbatched
    return HostModelInfo(
        digest=wish.digest(file.digest),
        inputs=tuple(port.info for port in program.ports.inputs),
        outputs=tuple(port.info for port in program.ports.outputs),
        batchable=not unbatched,
        weights_bytes=program.layout.nbytes,
        runtime=version(),
        unbatched=unbatched,
        max_batch=wish.max_batch,
    )
