"""Queues whose cost for each request does not grow with what waits: by arrival and group, and by any order."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from clockwork.scheduling.shapes import ShapeKey, shape_key
from clockwork.state import PendingRequest

T = TypeVar("T", bound="tuple[object, ...]")

MAX_CHUNK: Final = 512
"""Entries of an `Ordered` that lie in one list; a longer list is cut in two."""

MAX_LOOKED_AT: Final = 256
"""Requests of a group that are looked at for a batch: those too large for what is left of it are passed over."""


class Waiting:
    """Requests in order of arrival; those that can be in one Infer are found without going through the others.

    An `OrderedDict` finds its first entry at once; a dict whose first entries were deleted goes through their places.
    """

    def __init__(self) -> None:
        """Empty."""
        self._requests: OrderedDict[int, PendingRequest] = OrderedDict()
        self._groups: dict[tuple[str, ShapeKey], OrderedDict[int, PendingRequest]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[PendingRequest]:
        return iter(self._requests.values())

    def add(self, request: PendingRequest) -> None:
        """The request waits, behind all others."""
        self._requests[request.id] = request
        group = (request.model.name, shape_key(request))
        self._groups.setdefault(group, OrderedDict())[request.id] = request

    def discard(self, request: PendingRequest) -> None:
        """The request no longer waits, if it did."""
        if self._requests.pop(request.id, None) is None:
            return
        group = (request.model.name, shape_key(request))
        members = self._groups[group]
        del members[request.id]
        if not members:
            del self._groups[group]

    @property
    def first(self) -> PendingRequest:
        """The request that has waited longest; there must be one."""
        return next(iter(self._requests.values()))

    def like_first(self) -> Iterable[PendingRequest]:
        """The first request and those of its group behind it, in order, `MAX_LOOKED_AT` of them at most."""
        first = self.first
        return islice(self._groups[first.model.name, shape_key(first)].values(), MAX_LOOKED_AT)


class Ordered(Generic[T]):
    """Tuples in ascending order, each at most once: a list of short sorted lists."""

    def __init__(self) -> None:
        """Empty."""
        self._chunks: list[list[T]] = []
        self._lasts: list[T] = []  #: the last entry of each chunk

    def __iter__(self) -> Iterator[T]:
        for chunk in self._chunks:
            yield from chunk

    def add(self, entry: T) -> None:
        """The entry is in from now on; it must not be in yet."""
        if not self._chunks:
            self._chunks.append([entry])
            self._lasts.append(entry)
            return
        place = min(bisect_left(self._lasts, entry), len(self._chunks) - 1)
        chunk = self._chunks[place]
        insort(chunk, entry)
        if len(chunk) > MAX_CHUNK:
            half = len(chunk) // 2
            self._chunks.insert(place + 1, chunk[half:])
            self._lasts.insert(place + 1, chunk[-1])
            del chunk[half:]
        self._lasts[place] = chunk[-1]

    def remove(self, entry: T) -> None:
        """The entry is out from now on; it must be in."""
        place = bisect_left(self._lasts, entry)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, entry)]
        if chunk:
            self._lasts[place] = chunk[-1]
        else:
            del self._chunks[place], self._lasts[place]

    def since(self, entry: T, most: int) -> Iterator[T]:
        """At most ``most`` entries in order, from ``entry`` on."""
        place = bisect_left(self._lasts, entry)
        found = 0
        for chunk in islice(self._chunks, place, None):
            for it in islice(chunk, bisect_left(chunk, entry), None):
                if found == most:
                    return
                found += 1
                yield it
