"""What executes models: ``--runtime``.

Rules of the file: PyTorch is an extra. It is looked for without importing it, and imported by whom it is for.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.units import Bytes

if TYPE_CHECKING:
    from clockwork.runtimes.base import Runtime
    from clockwork.runtimes.batching import BatchingOptions

RUNTIMES: Final = ("auto", "onnx", "torch")

HOW_TO_INSTALL: Final = "pip install 'clockwork-serve[torch]'"


def runtime_name(value: str) -> str:
    """One of `RUNTIMES`."""
    if value not in RUNTIMES:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(RUNTIMES)}")
    return value


RuntimeName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--runtime",
        parser=runtime_name,
        metavar="RUNTIME",
        help="What executes models: auto (PyTorch those in .pt2 files, ONNX Runtime the others), onnx or torch.",
    ),
]


AllowCompiled: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-compiled",
        help="Accept .pt2 files with compiled code (clockwork export --compile): it is executed as it is.",
    ),
]


def check_torch() -> None:
    """Whether PyTorch is installed.

    Raises:
        InvalidRequestError: it is not.
    """
    from clockwork.errors import InvalidRequestError

    if find_spec("torch") is None:
        raise InvalidRequestError(f"PyTorch is not installed: {HOW_TO_INSTALL}")


def make_runtime(
    name: str,
    threads: int,
    cache: Path | None = None,
    cache_bytes: Bytes | None = None,
    allow_compiled: bool = False,
    batching: "BatchingOptions | None" = None,
) -> "Runtime":
    """The runtime for CPU devices that ``--runtime`` names; ``cache`` is for ONNX Runtime's prepared models.

    ``allow_compiled``: PyTorch programs may have compiled code in them. ``batching``: what was said of single models.

    Raises:
        InvalidRequestError: it is not installed.
    """
    from clockwork.errors import InvalidModelError
    from clockwork.runtimes.by_file import RuntimeByFile

    def torch() -> "Runtime":
        check_torch()
        from clockwork.runtimes.torch import TorchRuntime

        return TorchRuntime(threads, allow_compiled, batching)

    def torch_for_a_model() -> "Runtime":
        if find_spec("torch") is None:
            raise InvalidModelError(
                f"it is an exported PyTorch program, and PyTorch is not installed on the worker: {HOW_TO_INSTALL}"
            )
        return torch()

    if name == "torch":
        return torch()
    from clockwork.runtimes.onnx import OnnxRuntime

    onnx = OnnxRuntime(threads, cache, cache_bytes, batching)
    return onnx if name == "onnx" else RuntimeByFile(onnx, torch_for_a_model)
