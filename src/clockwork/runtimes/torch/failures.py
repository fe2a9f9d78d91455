"""Whose fault it is when PyTorch raises.

Rules of the file: what PyTorch says is cut to its first lines; paths are taken out, because messages travel to clients.
"""

import re
from typing import Final

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.common import error_text, inference_error

LIBRARY: Final = "PyTorch"
"""The name of the library in error messages."""

CHAIN_MAX: Final = 100
"""More errors are in no chain."""

FAILURES: Final[tuple[type[Exception], ...]] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Whatever PyTorch raises: its own exceptions are all of these."""

LOADING_FAILURES: Final[tuple[type[Exception], ...]] = (*FAILURES, ImportError, SyntaxError)
"""What it raises over a file besides."""

_MEMORY: Final = re.compile(r"allocate memory|out of memory|DefaultCPUAllocator", re.IGNORECASE)
_INPUTS: Final = re.compile(
    r"\b(shapes?|sizes?|dimensions?|dims?|broadcast\w*|index|indices|out of (range|bounds)|Runtime assertion failed)\b",
    re.IGNORECASE,
)
_NOISE: Final = re.compile(r"(?<!\w)/\S+|\bFile \"[^\"]*\", line \d+\S*|\b\w+\.(?:cc|h|cpp|hpp):\d+\b")


def describe(error: BaseException) -> str:
    """Return PyTorch's error text without paths and source lines; see `clockwork.runtimes.common.error_text`."""
    return error_text(error, _NOISE)


def cause(error: BaseException) -> BaseException:
    """The first of a chain of errors: PyTorch says what is wrong in the first, and where to look in the last."""
    for _ in range(CHAIN_MAX):
        earlier = error.__cause__ or error.__context__
        if earlier is None:
            break
        error = earlier
    return error


def failure(error: Exception) -> InvalidRequestError | ServerError:
    """A kernel that cannot make sense of shapes or indices was given inputs that do not go together."""
    text = str(error)
    return inference_error(
        describe(error),
        out_of_memory=bool(_MEMORY.search(text)) or isinstance(error, MemoryError),
        inputs_rejected=isinstance(error, LookupError) or bool(_INPUTS.search(text)),
    )
