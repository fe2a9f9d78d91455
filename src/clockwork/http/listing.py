"""JSON lists with one entry for each model, made in steps."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

import msgspec

from clockwork.steps import Steps
from clockwork.units import KIB, Bytes

PER_STEP: Final = 8
"""Entries that are made and formatted in one step."""

PART: Final[Bytes] = 64 * KIB
"""Text that is joined into one part of the body."""

_encode: Final = msgspec.json.Encoder().encode


def json_list(entries: Iterable[Any], before: bytes = b"[", after: bytes = b"]") -> Steps[list[bytes]]:
    """The JSON of a list in parts; the entries are made as they are needed."""
    parts: list[bytes] = []
    text = bytearray(before)
    left = iter(entries)
    while some := list(islice(left, PER_STEP)):
        text += _encode(some)[1:-1] + b","
        if len(text) >= PART:
            parts.append(bytes(text))
            text.clear()
        if len(some) < PER_STEP:
            break
        yield
    if text.endswith(b","):
        del text[-1:]
    elif parts:
        parts[-1] = parts[-1][:-1]
    text += after
    return [*parts, bytes(text)]
