"""Converts exceptions of PyTorch to errors for clients.

Clients receive PyTorch's messages. So the messages are cut to their first lines, and paths are removed.
"""

import re
from typing import Final

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.common import error_text, inference_error

LIBRARY: Final = "PyTorch"
"""The name of the library in error messages."""

MAX_CHAIN: Final = 100
"""Limit of the length of a chain of causes that is searched."""

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
"""Base types of all exceptions that PyTorch raises."""

LOADING_FAILURES: Final[tuple[type[Exception], ...]] = (*FAILURES, ImportError, SyntaxError)
"""Types of exceptions that PyTorch raises when it loads a file."""

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
    """Return the first error in a chain of causes.

    In PyTorch, the first error contains the reason. Later errors contain only hints.
    """
    for _ in range(MAX_CHAIN):
        earlier = error.__cause__ or error.__context__
        if earlier is None:
            break
        error = earlier
    return error


def execution_error(error: Exception) -> InvalidRequestError | ServerError:
    """Return the error for a failed execution: an InvalidRequestError if PyTorch rejected shapes or indices."""
    text = str(error)
    return inference_error(
        describe(error),
        out_of_memory=bool(_MEMORY.search(text)) or isinstance(error, MemoryError),
        inputs_rejected=isinstance(error, LookupError) or bool(_INPUTS.search(text)),
    )
