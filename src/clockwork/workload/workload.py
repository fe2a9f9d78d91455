"""Merges the requests of several streams in order of time."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from clockwork.units import Nanos
from clockwork.workload.request import WorkloadRequest
from clockwork.workload.streams import ClosedLoop, Stream


class Workload:
    """Combines several streams into one stream."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        """If several requests are due at the same time, they are taken in the order of their streams in the list."""
        self._streams = list(streams)
        self._heap = [(at, i) for i, stream in enumerate(self._streams) if (at := stream.next_send()) is not None]
        heapify(self._heap)

    def next_send(self) -> Nanos | None:
        """Return the time of the next request. Return None if all streams have ended or wait for responses."""
        heap = self._heap
        while heap:
            at, number = heap[0]
            if self._streams[number].next_send() == at:
                return at
            heappop(heap)
        return None

    def take(self) -> WorkloadRequest:
        """Remove and return the request that is due at `next_send`."""
        at = self.next_send()
        assert at is not None, "nothing is due"
        _, number = heappop(self._heap)
        request = self._streams[number].take()
        self._push(number)
        return request

    @property
    def done(self) -> bool:
        """Return whether no request will follow.

        If the result is true, no request is due later, and no client of a closed loop waits for a response.
        """
        return self.next_send() is None and not any(
            isinstance(stream, ClosedLoop) and stream.waiting for stream in self._streams
        )

    def answered(self, now: Nanos, request: WorkloadRequest, retry_after: Nanos | None) -> None:
        """Record that a request was answered at ``now``. `comes_back` returns ``retry_after``."""
        stream = self._streams[request.stream]
        before = stream.next_send()
        stream.answered(now, request, retry_after)
        if stream.next_send() != before:
            self._push(request.stream)

    def _push(self, number: int) -> None:
        at = self._streams[number].next_send()
        if at is not None:
            heappush(self._heap, (at, number))
