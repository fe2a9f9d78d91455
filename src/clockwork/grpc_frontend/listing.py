"""Messages with one entry for each model, made in steps.

Messages that are encoded one after the other are one message with the entries of all (Protocol Buffers, "Encoding":
the last one wins, and repeated fields are joined).
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from clockwork.steps import Steps

PER_STEP: Final = 8
"""Entries that are made and encoded in one step."""


def encoded_list(make: Callable[[list[Any]], Any], entries: Iterable[Any]) -> Steps[bytes]:
    """The encoding of a message with all entries; ``make`` makes a message with some, which are made as needed."""
    encoded = bytearray()
    left = iter(entries)
    while some := list(islice(left, PER_STEP)):
        encoded += make(some).SerializeToString()
        if len(some) < PER_STEP:
            break
        yield
    return bytes(encoded)
