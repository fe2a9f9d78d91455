"""Queues in which the cost of an operation does not grow with the length of the queue.

`Waiting` keeps requests in order of arrival and by group. `Ordered` keeps tuples sorted.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from clockwork.scheduling.shapes import ShapeKey, shape_key
from clockwork.state import PendingRequest

T = TypeVar("T", bound="tuple[object, ...]")

MAX_CHUNK: Final = 512
"""Largest number of entries in one list of an `Ordered`. A longer list is divided into two lists."""

MAX_CONSIDERED: Final = 256
"""Number of requests of a group that are considered for a batch. Requests with too many rows are skipped."""


class Waiting:
    """Requests in order of arrival. The requests that can share an Infer are found without a search through the queue.

    The class uses `OrderedDict`, which finds its first entry at once. A plain dict would search through the places of
    deleted entries.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._requests: OrderedDict[int, PendingRequest] = OrderedDict()
        self._groups: dict[tuple[str, ShapeKey], OrderedDict[int, PendingRequest]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[PendingRequest]:
        return iter(self._requests.values())

    def add(self, request: PendingRequest) -> None:
        """Add a request at the end."""
        self._requests[request.id] = request
        group = (request.model.name, shape_key(request))
        self._groups.setdefault(group, OrderedDict())[request.id] = request

    def discard(self, request: PendingRequest) -> None:
        """Remove a request, if it is in the queue."""
        if self._requests.pop(request.id, None) is None:
            return
        group = (request.model.name, shape_key(request))
        members = self._groups[group]
        del members[request.id]
        if not members:
            del self._groups[group]

    @property
    def first(self) -> PendingRequest:
        """The request that has waited longest. The queue must not be empty."""
        return next(iter(self._requests.values()))

    def like_first(self) -> Iterable[PendingRequest]:
        """Return the first request and the later requests of its group, in order; at most `MAX_CONSIDERED` requests."""
        first = self.first
        return islice(self._groups[first.model.name, shape_key(first)].values(), MAX_CONSIDERED)


class Ordered(Generic[T]):
    """Distinct tuples in ascending order, stored as a list of short sorted lists."""

    def __init__(self) -> None:
        """Start empty."""
        self._chunks: list[list[T]] = []
        self._lasts: list[T] = []  #: the last entry of each chunk

    def __iter__(self) -> Iterator[T]:
        for chunk in self._chunks:
            yield from chunk

    def add(self, entry: T) -> None:
        """Add an entry that is not in the queue yet."""
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
        """Remove an entry that is in the queue."""
        place = bisect_left(self._lasts, entry)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, entry)]
        if chunk:
            self._lasts[place] = chunk[-1]
        else:
            del self._chunks[place], self._lasts[place]

    def since(self, entry: T, limit: int) -> Iterator[T]:
        """Iterate over at most ``limit`` entries in order, beginning at ``entry``."""
        place = bisect_left(self._lasts, entry)
        found = 0
        for chunk in islice(self._chunks, place, None):
            for following in islice(chunk, bisect_left(chunk, entry), None):
                if found == limit:
                    return
                found += 1
                yield following
