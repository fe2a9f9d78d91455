"""Encodes lists with an entry for each model in steps, so that the event loop is never blocked for long."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

from clockwork.steps import Steps
from clockwork.units import KIB, Bytes

PER_STEP: Final = 8
"""Number of entries that are encoded in one step."""

PART: Final[Bytes] = 64 * KIB
"""Approximate size of one part of the result, in bytes."""


class ListFormat(NamedTuple):
    """How a transport encodes a list.

    ``encode`` encodes several entries at once. The remaining fields are the bytes that begin, separate and end the
    list.
    """

    encode: Callable[[list[Any]], bytes]
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""


def encoded_list(entries: Iterable[Any], form: ListFormat) -> Steps[list[bytes]]:
    """Return the encoded list in parts. ``entries`` may be a generator, so that only a few entries exist at a time."""
    parts: list[bytes] = []
    text = bytearray(form.before)
    between = b""
    iterator = iter(entries)
    while some := list(islice(iterator, PER_STEP)):
        text += between
        text += form.encode(some)
        between = form.between
        if len(text) >= PART:
            parts.append(bytes(text))
            text.clear()
        if len(some) < PER_STEP:
            break
        yield
    text += form.after
    return [*parts, bytes(text)]
