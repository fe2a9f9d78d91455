"""Batches that are planned and have room, or could be given more: requests of the same group can join them."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

from clockwork.scheduling.clockwork.plan import Batch
from clockwork.scheduling.shapes import ShapeKey

MAX_JOINABLE: Final = 32
"""Batches of one group that are looked at: half of them the oldest, half the newest."""

GroupKey = tuple[str, ShapeKey]
"""A model's name, and the shapes that can be in one batch."""


class Joinable:
    """The batches of all plans that requests can still join, by group."""

    def __init__(self) -> None:
        """No batches yet."""
        self._batches: dict[GroupKey, OrderedDict[Batch, None]] = {}

    def of(self, group: GroupKey) -> Iterable[Batch]:
        """Batches that requests of the group might join, at most `MAX_JOINABLE`; nothing may change meanwhile."""
        batches = self._batches.get(group)
        if batches is None:
            return ()
        if len(batches) <= MAX_JOINABLE:
            return batches
        return chain(islice(batches, MAX_JOINABLE // 2), islice(reversed(batches), MAX_JOINABLE // 2))

    def note(self, batch: Batch) -> None:
        """The batch is planned, and its rows have changed."""
        if batch.plan.is_full(batch):
            self.drop(batch)
        else:
            self._batches.setdefault((batch.model.name, batch.key), OrderedDict())[batch] = None

    def drop(self, batch: Batch) -> None:
        """The batch is full, or no longer planned."""
        group = (batch.model.name, batch.key)
        batches = self._batches.get(group)
        if batches is not None:
            batches.pop(batch, None)
            if not batches:
                del self._batches[group]
