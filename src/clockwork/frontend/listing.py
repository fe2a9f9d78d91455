"""Encodes lists with one entry for each model, in steps."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

from clockwork.steps import Steps
from clockwork.units import KIB, Bytes

PER_STEP: Final = 8
"""Number of entries encoded in one step."""

PART: Final[Bytes] = 64 * KIB
"""Approximate size of one part of the result, in bytes."""


class ListFormat(NamedTuple):
    """A transport's encoding of a list: ``encode`` encodes some entries; the rest surrounds and separates them."""

    encode: Callable[[list[Any]], bytes]
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""


def encoded_list(entries: Iterable[Any], form: ListFormat) -> Steps[list[bytes]]:
    """Return the encoded list in parts; each entry is made just before it is encoded."""
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
