"""Finds references to unloaded models in the memory of a controller and its scheduler."""

import gc
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final

_SKIPPED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType)
"""Types of objects that are not searched, because they refer to modules, which lead to all other objects."""


def leftovers(root: object, keys: frozenset[str], ignored: Sequence[object] = ()) -> list[str]:
    """Return each of the ``keys`` that is reachable from ``root``, with the types of the objects on the path to it.

    Objects in ``ignored`` may contain the keys.
    """
    found: list[str] = []
    seen = {id(item) for item in ignored}
    waiting: list[tuple[object, str]] = [(root, type(root).__name__)]
    while waiting:
        holder, way = waiting.pop()
        for held in gc.get_referents(holder):
            if isinstance(held, str):
                if held in keys:
                    found.append(f"{held} in {way}")
            elif not isinstance(held, _SKIPPED) and id(held) not in seen:
                seen.add(id(held))
                waiting.append((held, f"{way} > {type(held).__name__}"))
    return found
