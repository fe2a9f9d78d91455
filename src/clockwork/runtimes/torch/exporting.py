"""Exports a module to a ``.pt2`` file, with a batch dimension of variable size if the module allows it."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Final

import torch
from msgspec import Struct
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.runtimes import scratch
from clockwork.runtimes.batching import BatchingPolicy
from clockwork.runtimes.torch import compiling
from clockwork.runtimes.torch.archive import read
from clockwork.runtimes.torch.compiled import Code
from clockwork.runtimes.torch.failures import FAILURES, describe
from clockwork.runtimes.torch.runtime import prepared

EXAMPLE_ROWS: Final = 2
"""Number of rows of example inputs. With one row, PyTorch would export a batch dimension of fixed size 1."""

TOLERANCE: Final = 1e-3
"""Largest accepted difference between the outputs of the program and of the module, relative to the largest output.

The difference is small, because the program and the module run the same kernels.
"""

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Example(Struct, frozen=True):
    """Example of an input. ``name`` is a parameter of ``forward``, or empty for a positional input."""

    shape: tuple[int, ...]
    dtype: Any
    name: str = ""

    def tensor(self, rows: int | None = None) -> Any:
        """Return a tensor of random fractions or of zeros. ``rows`` replaces the size of the first dimension."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        if self.dtype in _FLOATS:
            return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        return torch.zeros(shape, dtype=self.dtype)


class Exported(Struct, frozen=True):
    """An exported program.

    ``fixed_because`` is the reason why the batch dimension is fixed, or empty. ``code`` is the compiled code, if there
    is any.
    """

    program: Any
    fixed_because: str = ""
    code: Code | None = None

    def compiled(self) -> "Exported":
        """Return a copy with compiled code for this CPU; see `clockwork.runtimes.torch.compiling`.

        Raises:
            InvalidRequestError: there is no compiler, or the program cannot be compiled.
        """
        with _quiet():
            return replace(self, code=compiling.compiled(self.program))

    def save(self, path: Path) -> None:
        """Write the file atomically. If the program has compiled code, test the code first.

        Raises:
            InvalidRequestError: the file cannot be written.
            InvalidModelError: the outputs of the compiled code differ from the program's.
        """
        try:
            scratch.sweep(path.parent)
            with scratch.ScratchDirectory(path.parent) as directory:
                file = directory / path.name
                with _quiet():
                    torch.export.save(self.program, str(file))
                if self.code is not None:
                    compiling.add(file, self.code)
                    prepared(read(file), torch.get_num_threads(), BatchingPolicy())
                file.replace(path)
        except FAILURES as error:
            raise InvalidRequestError(f"cannot write {path}: {describe(error)}") from error


def export(module: Any, examples: Sequence[Example], batch: bool | None = None, half: bool = False) -> Exported:
    """Export a module for inference.

    ``batch`` states whether the first dimension is variable. If ``batch`` is None, the dimension is variable if the
    module allows this. ``half`` converts weights, inputs and outputs to 16 bits.

    Raises:
        InvalidRequestError: the module cannot be exported with these arguments.
    """
    if not isinstance(module, torch.nn.Module):
        raise InvalidRequestError(f"expected a torch.nn.Module, found {type(module).__name__}")
    if not examples:
        raise InvalidRequestError("a module without inputs cannot be exported: describe its inputs")
    module = module.eval()
    if half:
        module = module.half()
        examples = [
            Example(example.shape, torch.float16 if example.dtype in _FLOATS else example.dtype, example.name)
            for example in examples
        ]
    if batch is False:
        return Exported(_exported(module, examples, free=False))
    try:
        return Exported(_exported(module, examples, free=True))
    except InvalidRequestError as error:
        if batch:
            raise
        return Exported(_exported(module, examples, free=False), str(error))


def _exported(module: Any, examples: Sequence[Example], free: bool) -> Any:
    if free and not all(example.shape for example in examples):
        raise InvalidRequestError("an input without dimensions has no rows")
    arguments, named = _inputs(examples, EXAMPLE_ROWS if free else None)
    dynamic = None
    if free:
        rows = {0: torch.export.Dim("batch", min=1)}
        dynamic = (*(rows for _ in arguments), *(rows for _ in named))
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, arguments, named, dynamic_shapes=dynamic)
            for count in (1, EXAMPLE_ROWS + 1) if free else (None,):
                _compare(module, program, *_inputs(examples, count))
    except FAILURES as error:
        raise InvalidRequestError(f"torch.export cannot export the module: {_reason(error)}") from error
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress PyTorch's warnings, logs and output. PyTorch raises an error for every real problem."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _inputs(examples: Sequence[Example], rows: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional = tuple(example.tensor(rows) for example in examples if not example.name)
    return positional, {example.name: example.tensor(rows) for example in examples if example.name}


def _compare(module: Any, program: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raise ValueError if the outputs of the program differ from the module's outputs."""
    wanted = torch.utils._pytree.tree_leaves(module(*arguments, **named))  # noqa: SLF001 - torch.export uses it
    found = torch.utils._pytree.tree_leaves(program.module()(*arguments, **named))  # noqa: SLF001
    for i, (first, second) in enumerate(zip(wanted, found, strict=True)):
        if not isinstance(first, torch.Tensor):
            continue
        if first.shape != second.shape:
            raise ValueError(f"output {i} of the program has shape {list(second.shape)}, not {list(first.shape)}")
        if first.dtype in _FLOATS and first.numel():
            largest = float(first.double().abs().max())
            difference = float((first.double() - second.double()).abs().max())
            if difference > TOLERANCE * largest:
                raise ValueError(
                    f"output {i} of the program differs by {difference:.3g} from the module's, whose largest element "
                    f"is {largest:.3g}: the module uses random numbers, or depends on more than its inputs"
                )


def _reason(error: BaseException) -> str:
    """Return the first three non-empty lines of an error text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return describe(ValueError(" ".join(lines[:3]))) if lines else describe(error)
