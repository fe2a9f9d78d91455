"""Stores the planned batches of one device in order, and computes their times.

Theory of operation. Let ``at`` be the time when the device is free for a batch, and ``ready`` the time when the batch's
weights are loaded. The batch then ends at ``max(at, ready) + reserved``. So a run of consecutive batches is described
by two functions of ``at``:

    end(at) = max(at + length, floor) the time when the run ends; the run takes at least ``length``
    slack(at) = min(reach - at, spare) the longest delay of the run for which each batch still meets its ``due``

If one run follows another, functions of the same form describe both together. The batches are the nodes of a balanced
binary tree. The tree is a treap. The priorities of the treap are a fixed sequence of pseudorandom numbers, so that a
simulation can be repeated. Each node stores the four numbers of the run that consists of its subtree. Every query and
every change takes O(log n) time for n batches.
"""

from collections.abc import Iterator
from typing import Final, Generic, Self, TypeVar

from clockwork.units import Nanos

FAR: Final[Nanos] = 1 << 62
"""A time that is never reached."""


class TimelineEntry:
    """A batch in a `Timeline`. The attributes from ``left`` on form the timeline's tree.

    Only the timeline sets these attributes.
    """

    __slots__ = (
        "due",
        "floor",
        "least_due",
        "left",
        "length",
        "parent",
        "priority",
        "reach",
        "ready",
        "reserved",
        "right",
        "spare",
    )

    def __init__(self, reserved: Nanos) -> None:
        """Create an entry. The batch must end by ``due``.

        The batch cannot begin before ``ready`` (0: it can begin at any time).
        """
        self.reserved = reserved
        self.due: Nanos = FAR
        self.ready: Nanos = 0
        self.left: Self | None = None
        self.right: Self | None = None
        self.parent: Self | None = None
        self.priority = 0
        self.length: Nanos = 0
        self.floor: Nanos = 0
        self.reach: Nanos = 0
        self.spare: Nanos = 0
        self.least_due: Nanos = FAR

    def pull(self) -> None:
        """Compute the numbers of this subtree's run from the left subtree, the batch itself and the right subtree."""
        length, due = self.reserved, self.due
        floor = self.ready + length
        reach, spare = due - length, due - floor
        left, right = self.left, self.right
        if left is not None:
            before, until = left.length, left.floor
            spare = min(left.spare, reach - until, spare)
            reach = min(left.reach, reach - before)
            floor = max(until + length, floor)
            length += before
            due = min(due, left.least_due)
        if right is not None:
            after = right.reach
            spare = min(spare, after - floor, right.spare)
            reach = min(reach, after - length)
            floor = max(floor + right.length, right.floor)
            length += right.length
            due = min(due, right.least_due)
        self.length, self.floor, self.reach, self.spare, self.least_due = length, floor, reach, spare, due


T = TypeVar("T", bound=TimelineEntry)


class Timeline(Generic[T]):
    """The batches of one plan. ``origin`` is the time when the device is free for the first batch."""

    def __init__(self) -> None:
        """Create an empty timeline."""
        self._root: T | None = None
        self._count = 0
        self._chance = 1

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._root is not None

    def __iter__(self) -> Iterator[T]:
        """Iterate over the batches in order. The timeline must not be changed during the iteration."""
        path: list[T] = []
        node = self._root
        while node is not None or path:
            while node is not None:
                path.append(node)
                node = node.left
            batch = path.pop()
            yield batch
            node = batch.right

    @property
    def first(self) -> T:
        """The first batch. The timeline must not be empty."""
        assert self._root is not None
        return _leftmost(self._root)

    # --- times -----------------------------------------------------------------------------------------------------

    def end(self, origin: Nanos) -> Nanos:
        """Return the end of the last batch. Return ``origin`` if there is no batch."""
        root = self._root
        return origin if root is None else max(origin + root.length, root.floor)

    def free_at(self, batch: T, origin: Nanos) -> Nanos:
        """Return the time at which the device is free for the batch.

        The result is the end of the previous batch, or ``origin`` for the first batch.
        """
        path: list[tuple[T, bool]] = []  #: (node, batch is to its right), from the batch up to the root
        node, parent = batch, batch.parent
        while parent is not None:
            path.append((parent, parent.right is node))
            node, parent = parent, parent.parent
        at = origin
        for node, is_before in reversed(path):
            if is_before:
                if (left := node.left) is not None:
                    at = max(at + left.length, left.floor)
                at = max(at, node.ready) + node.reserved
        left = batch.left
        return at if left is None else max(at + left.length, left.floor)

    def slack(self, batch: T, at: Nanos) -> Nanos:
        """Return the slack of a batch, if the device is free for the batch at the time ``at``.

        The batch and all later batches may be delayed by this time without breaking a promise.
        """
        slack = FAR
        node: T | None = batch
        came_from: T | None = None
        while node is not None:
            if came_from is None or node.left is came_from:
                at = max(at, node.ready) + node.reserved
                slack = min(slack, node.due - at)
                if (right := node.right) is not None:
                    slack = min(slack, right.reach - at, right.spare)
                    at = max(at + right.length, right.floor)
            came_from, node = node, node.parent
        return slack

    def place_for(self, due: Nanos) -> T | None:
        """Return the batch before which a batch with this ``due`` belongs, or None if the batch belongs at the end.

        All batches with the same or an earlier ``due`` are before this place.
        """
        node, after = self._root, None
        while node is not None:
            right = node.right
            if right is not None and right.least_due <= due:
                node = right
            elif node.due <= due:
                return after if right is None else _leftmost(right)
            else:
                after, node = node, node.left
        return after

    # --- changes -----------------------------------------------------------------------------------------------------

    def insert(self, batch: T, before: T | None = None) -> None:
        """Insert the batch in front of another batch, or at the end."""
        self._chance = self._chance * 48271 % 0x7FFFFFFF  # this is the minimal standard generator of Park and Miller
        batch.priority = self._chance
        batch.left = batch.right = batch.parent = None
        self._count += 1
        if before is not None and before.left is None:
            parent: T | None = before
            before.left = batch
        else:
            subtree = self._root if before is None else before.left
            parent = None
            while subtree is not None:
                parent, subtree = subtree, subtree.right
            if parent is None:
                self._root = batch
            else:
                parent.right = batch
        batch.parent = parent
        batch.pull()
        while (parent := batch.parent) is not None and parent.priority < batch.priority:
            self._rotate_up(batch)
        self.update(batch.parent)

    def remove(self, batch: T) -> None:
        """Remove a batch of this timeline."""
        while (left := batch.left) is not None and (right := batch.right) is not None:
            self._rotate_up(left if left.priority > right.priority else right)
        child = batch.left or batch.right
        parent = batch.parent
        if child is not None:
            child.parent = parent
        self._replace(parent, batch, child)
        batch.left = batch.right = batch.parent = None
        self._count -= 1
        self.update(parent)

    def update(self, batch: T | None) -> None:
        """Update the tree after ``reserved``, ``due`` or ``ready`` of the batch has changed."""
        while batch is not None:
            batch.pull()
            batch = batch.parent

    def _replace(self, parent: T | None, old: T, new: T | None) -> None:
        if parent is None:
            self._root = new
        elif parent.left is old:
            parent.left = new
        else:
            parent.right = new

    def _rotate_up(self, batch: T) -> None:
        """Exchange the batch with its parent in the tree. The parent becomes the batch's child."""
        parent = batch.parent
        assert parent is not None
        above = parent.parent
        if parent.left is batch:
            moved = parent.left = batch.right
            batch.right = parent
        else:
            moved = parent.right = batch.left
            batch.left = parent
        if moved is not None:
            moved.parent = parent
        self._replace(above, parent, batch)
        parent.parent, batch.parent = batch, above
        parent.pull()
        batch.pull()


def _leftmost(batch: T) -> T:
    while batch.left is not None:
        batch = batch.left
    return batch
