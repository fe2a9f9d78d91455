"""From a module to a ``.pt2`` file: ``torch.export`` with a batch dimension of any size where the module allows it."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from msgspec import Struct
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.batching import BatchingPolicy
from clockwork.runtimes.torch import compiling
from clockwork.runtimes.torch.archive import read
from clockwork.runtimes.torch.compiled import Code
from clockwork.runtimes.torch.failures import FAILURES, describe
from clockwork.runtimes.torch.runtime import prepared

EXAMPLE_ROWS: Final = 2
"""Of example inputs; with one row, PyTorch takes the batch for a dimension of size one for good."""

TOLERANCE: Final = 1e-3
"""How far a program may be from its module, as a part of the largest output; both run the same kernels."""

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Example(Struct, frozen=True):
    """What one input looks like; ``name`` is that of a parameter of ``forward``, or empty: by position."""

    shape: tuple[int, ...]
    dtype: Any
    name: str = ""

    def tensor(self, rows: int | None = None) -> Any:
        """Fractions, or zeros; ``rows`` instead of the first dimension."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        if self.dtype in _FLOATS:
            return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        return torch.zeros(shape, dtype=self.dtype)


class Exported(Struct, frozen=True):
    """An exported program, why its batch dimension is fixed, if it is, and the code that was compiled from it."""

    program: Any
    fixed_because: str = ""
    code: Code | None = None

    def compiled(self) -> "Exported":
        """With code for the CPU of this machine; see `clockwork.runtimes.torch.compiling`.

        Raises:
            InvalidRequestError: there is no compiler, or it cannot be compiled.
        """
        with _quiet():
            return replace(self, code=compiling.compiled(self.program))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; with compiled code, it is tried before.

        Raises:
            InvalidRequestError: it cannot be written.
            InvalidModelError: the compiled code does not compute what the program does.
        """
        try:
            with TemporaryDirectory(prefix=".clockwork-", dir=path.parent) as directory:
                made = Path(directory) / path.name
                with _quiet():
                    torch.export.save(self.program, str(made))
                if self.code is not None:
                    compiling.add(made, self.code)
                    prepared(read(made), torch.get_num_threads(), BatchingPolicy())
                made.replace(path)
        except FAILURES as error:
            raise InvalidRequestError(f"{path} cannot be written: {describe(error)}") from error


def export(module: Any, examples: Sequence[Example], batch: bool | None = None, half: bool = False) -> Exported:
    """Export a module for inference. ``batch``: with a free first dimension, or not; None: if that is possible.

    ``half``: with weights and fractions of 16 bits.

    Raises:
        InvalidRequestError: it is not exportable, or not so.
    """
    if not isinstance(module, torch.nn.Module):
        raise InvalidRequestError(f"a torch.nn.Module is needed; found {type(module).__name__}")
    if not examples:
        raise InvalidRequestError("a module without inputs cannot be exported: say what its inputs look like")
    module = module.eval()
    if half:
        module = module.half()
        examples = [Example(it.shape, torch.float16 if it.dtype in _FLOATS else it.dtype, it.name) for it in examples]
    if batch is False:
        return Exported(_exported(module, examples, free=False))
    try:
        return Exported(_exported(module, examples, free=True))
    except InvalidRequestError as error:
        if batch:
            raise
        return Exported(_exported(module, examples, free=False), str(error))


def _exported(module: Any, examples: Sequence[Example], free: bool) -> Any:
    if free and not all(it.shape for it in examples):
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
        raise InvalidRequestError(f"torch.export cannot export it: {_reason(error)}") from error
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """What PyTorch warns of, logs and prints is raised as well, if it matters."""
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
    positional = tuple(it.tensor(rows) for it in examples if not it.name)
    return positional, {it.name: it.tensor(rows) for it in examples if it.name}


def _compare(module: Any, program: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Whether the program computes what the module does."""
    wanted = torch.utils._pytree.tree_leaves(module(*arguments, **named))  # noqa: SLF001 - what torch.export uses
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
                    f"output {i} of the program is {difference:.3g} off where the module gives at most {largest:.3g}: "
                    "it draws at random, or depends on more than its inputs"
                )


def _reason(error: BaseException) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return describe(ValueError(" ".join(lines[:3]))) if lines else describe(error)
