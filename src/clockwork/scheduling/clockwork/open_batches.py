"""Finds planned batches that more requests of the same group can join."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

from clockwork.scheduling.clockwork.plan import PlannedBatch
from clockwork.scheduling.shapes import ShapeKey

MAX_CONSIDERED: Final = 32
"""Largest number of batches of one group that are considered for a request.

Half of these are the oldest batches, and half are the newest.
"""

GroupKey = tuple[str, ShapeKey]
"""Name of the model and shape of the inputs. Requests of one group can share a batch."""


class OpenBatches:
    """The planned batches that are not full, by group."""

    def __init__(self) -> None:
        """Start without batches."""
        self._batches: dict[GroupKey, OrderedDict[PlannedBatch, None]] = {}

    def of(self, group: GroupKey) -> Iterable[PlannedBatch]:
        """Return at most `MAX_CONSIDERED` batches of the group.

        The caller must not add a batch while it iterates over the result.
        """
        batches = self._batches.get(group)
        if batches is None:
            return ()
        if len(batches) <= MAX_CONSIDERED:
            return batches
        return chain(islice(batches, MAX_CONSIDERED // 2), islice(reversed(batches), MAX_CONSIDERED // 2))

    def update(self, batch: PlannedBatch) -> None:
        """Update the entry of a batch after the batch was planned or its rows have changed.

        Full batches have no entry.
        """
        if batch.plan.is_full(batch):
            self.drop(batch)
        else:
            self._batches.setdefault((batch.model.name, batch.key), OrderedDict())[batch] = None

    def drop(self, batch: PlannedBatch) -> None:
        """Drop a batch that is full or is no longer planned."""
        group = (batch.model.name, batch.key)
        batches = self._batches.get(group)
        if batches is not None:
            batches.pop(batch, None)
            if not batches:
                del self._batches[group]
