"""Error messages that several modules need, so that each fault has one wording."""

from collections.abc import Iterable
from heapq import nsmallest
from typing import Final

MAX_QUOTED: Final = 80
"""Limit on the characters of a client's text that an error message repeats."""

MAX_LISTED: Final = 10
"""Limit on the names that an error message lists."""


def quoted(text: str) -> str:
    """Return a client's text in quotes, cut to `MAX_QUOTED` characters."""
    return repr(text[:MAX_QUOTED])


def not_served(name: str, why: str) -> str:
    """Return the error message for a model that cannot be loaded or measured; ``why`` is the reason."""
    return f"model {quoted(name)} is not served: {why}"


def unknown_model(name: str, served: Iterable[str]) -> str:
    """Return the error message for an unknown model name; ``served`` are the names of the served models."""
    names = nsmallest(MAX_LISTED + 1, served)
    listed = ", ".join(names[:MAX_LISTED]) or "none"
    return f"model {quoted(name)} is unknown; served models: {listed}{', ...' if len(names) > MAX_LISTED else ''}"
