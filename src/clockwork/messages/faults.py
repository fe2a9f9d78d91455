"""Error messages that several modules use, so that each fault has the same text in all modules."""

from collections.abc import Iterable
from heapq import nsmallest
from typing import Final

MAX_QUOTED: Final = 80
"""Largest number of characters that an error message repeats from a client's text."""

MAX_LISTED: Final = 10
"""Largest number of names in a list in an error message."""


def quoted(text: str) -> str:
    """Return a client's text in quotes. A longer text is cut to `MAX_QUOTED` characters."""
    return repr(text[:MAX_QUOTED])


def as_utf8(text: str) -> str:
    """Return a text that can be encoded as UTF-8, with escapes for the characters that cannot.

    Python represents the bytes of a file's name that are not UTF-8 as such characters.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def not_served(name: str, why: str) -> str:
    """Return the error message for a model that cannot be loaded or measured. ``why`` is the reason."""
    return f"model {quoted(name)} is not served: {why}"


def unknown_version(name: str, version: str, ready: Iterable[str]) -> str:
    """Return the error message for a version that is not served. ``ready`` contains the served versions."""
    listed = ", ".join(list(ready)[-MAX_LISTED:]) or "none"
    return f"model {quoted(name)} has no version {quoted(version)}; served versions: {listed}"


def no_ready_version(name: str, states: Iterable[str]) -> str:
    """Return the error message for a model without a ready version.

    ``states`` contains the state of each version as text.
    """
    return f"model {quoted(name)} has no ready version: {', '.join(list(states)[-MAX_LISTED:])}"


def unknown_model(name: str, served: Iterable[str]) -> str:
    """Return the error message for an unknown model name. ``served`` contains the names of the served models."""
    names = nsmallest(MAX_LISTED + 1, served)
    listed = ", ".join(names[:MAX_LISTED]) or "none"
    return f"model {quoted(name)} is unknown; served models: {listed}{', ...' if len(names) > MAX_LISTED else ''}"
