"""Explains how many devices the server wants, as a JSON document that is made in steps."""

from heapq import heappush, heappushpop
from typing import Any, Final

import msgspec

from clockwork.controller.description import Description
from clockwork.messages.scaling import ModelWork
from clockwork.steps import Steps

MAX_LISTED: Final = 100
"""Limit of the models in the document. The models with the most work are listed."""

PER_STEP: Final = 50
"""Number of models that are read in one step."""


def scaling_document(server: Description) -> Steps[dict[str, Any]]:
    """Return the wanted devices of each kind, and the models with the most work in descending order of their work."""
    busiest: list[tuple[float, int, ModelWork]] = []
    others = 0
    for number, work in enumerate(server.tally.scaling.models()):
        entry = (work.work, -number, work)
        if len(busiest) < MAX_LISTED:
            heappush(busiest, entry)
        else:
            heappushpop(busiest, entry)
            others += 1
        if number % PER_STEP == PER_STEP - 1:
            yield
    models = [work for _, _, work in sorted(busiest, reverse=True)]
    document = {"kinds": server.scaling, "models": models, "other_models": others}
    found: dict[str, Any] = msgspec.to_builtins(document)
    return found
