"""Chooses the device and the batch for each request.

If several places are possible, an idle device comes first, then the device that would be used most efficiently, then
the batch that would end first. If a model is on no device, it is loaded on the device where its batch would end first.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from clockwork.scheduling.clockwork.batching_delay import BatchingDelay
from clockwork.scheduling.clockwork.demand import Demand
from clockwork.scheduling.clockwork.open_batches import GroupKey, OpenBatches
from clockwork.scheduling.clockwork.plan import Offer, Plan, PlannedBatch
from clockwork.scheduling.clockwork.weights import Weights
from clockwork.state import PendingRequest
from clockwork.units import Nanos

MAX_TRIED: Final = 16
"""Number of requests of a group that are tried one by one if no device can serve them.

After that, a binary search finds the first request that can be planned.
"""


class Placing:
    """Plans requests in batches of devices, and records where each request is planned."""

    def __init__(self, weights: Weights, demand: Demand, delay: BatchingDelay) -> None:
        """Start without requests."""
        self._weights = weights
        self._demand = demand
        self._delay = delay
        self._open = OpenBatches()
        self._batch_of: dict[int, PlannedBatch] = {}  #: id of a planned request -> its batch

        #: request id -> the plan of the device to which the request was assigned or sent
        self._plan_of: dict[int, Plan] = {}

    def __len__(self) -> int:
        """Return the number of requests that are planned."""
        return len(self._batch_of)

    def plan_of(self, request: PendingRequest) -> Plan | None:
        """Return the plan of the device where the request is planned or was sent."""
        return self._plan_of.get(request.id)

    # --- planning ----------------------------------------------------------------------------------------------------

    def place_at_once(self, now: Nanos, group: GroupKey, request: PendingRequest) -> Plan | None:
        """Add the request to a batch with room, or begin a batch on an idle device.

        Return the plan that has changed, or None if the request cannot be placed.
        """
        for batch in self._open.of(group):
            if batch.capacity - batch.rows >= request.batch_size:
                offer = batch.plan.offer_to_join(now, batch, request.batch_size, request, 0.0)
                if offer is not None:
                    self._accept(now, offer, group, [request])
                    return batch.plan
        for plan in self._weights.some_holders(group[0]):
            if not plan.batches and not plan.device.sent and group[0] not in plan.device.ready:
                wanted = self._delay.wanted(now, group[0], plan.device.infer_time(now, request.model, 1, group[1]))
                offer = plan.offer(now, request.model, group[1], max(wanted, request.batch_size), request, 0.0, 0)
                if offer is not None and offer.room >= request.batch_size:
                    self._accept(now, offer, group, [request])
                    self._delay.begin(now, plan, wanted, self._demand.rate(now, group[0]))
                    return plan
        return None

    def place(
        self, now: Nanos, group: GroupKey, requests: list[PendingRequest]
    ) -> tuple[list[Plan], list[PendingRequest]]:
        """Plan the requests of a group.

        Return the plans that have changed, and the requests that could not be planned.
        """
        changed: list[Plan] = []
        refused: list[PendingRequest] = []
        left = sorted(requests, key=lambda request: request.deadline)
        rows = sum(request.batch_size for request in left)
        place = tried = 0
        while place < len(left):
            first = left[place]
            offer, warm = self._best(now, group, rows, first)
            taken = _fitting(left, place, offer.room) if offer is not None else []
            if offer is None or not taken:
                tried += 1
                skip = _same_deadline(left, place)
                if tried > MAX_TRIED:
                    skip = self._hopeless(now, group, rows, left, place)
                refused += left[place : place + skip]
                rows -= sum(request.batch_size for request in left[place : place + skip])
                place += skip
                continue
            if not warm:
                evicted = self._weights.victims(now, offer.plan, first.model)
                assert evicted is not None
                self._weights.load(now, offer.plan, first.model, evicted)
            self._accept(now, offer, group, taken)
            changed.append(offer.plan)
            place, rows, tried = place + len(taken), rows - sum(request.batch_size for request in taken), 0
        return changed, refused

    def _hopeless(self, now: Nanos, group: GroupKey, rows: int, left: Sequence[PendingRequest], place: int) -> int:
        """Return the number of successive requests, beginning at ``place``, that no device can serve."""
        low, high = place + 1, len(left)
        while low < high:
            middle = (low + high) // 2
            if self._best(now, group, rows, left[middle])[0] is None:
                low = middle + 1
            else:
                high = middle
        return low - place

    def _best(self, now: Nanos, group: GroupKey, rows: int, first: PendingRequest) -> tuple[Offer | None, bool]:
        """Return the best offer for a group.

        The second value is whether the offering device has or is loading the weights.
        """
        model, key = first.model, group[1]
        rate = self._demand.rate(now, model.name)
        best: Offer | None = None
        for batch in self._open.of(group):
            best = better(best, batch.plan.offer_to_join(now, batch, rows, first, rate))
        for plan in self._weights.some_holders(model.name):
            ready = plan.device.ready.get(model.name, 0)
            best = better(best, plan.offer(now, model, key, rows, first, rate, ready))
        if best is not None:
            return best, True
        for plan in self._weights.some(self._weights.plans):
            if self._weights.can_load(plan, model) and self._weights.victims(now, plan, model) is not None:
                ready = plan.device.ready_at(now, model)
                offer = plan.offer(now, model, key, rows, first, rate, ready)
                if offer is not None and (best is None or offer.end < best.end):
                    best = offer
        return best, False

    def would_serve(self, now: Nanos, group: GroupKey, request: PendingRequest) -> list[Plan]:
        """Return devices without the model's weights that could serve the request if they had the weights."""
        model, rate = request.model, self._demand.rate(now, group[0])
        plans = [plan for plan in self._weights.some(self._weights.plans) if self._weights.can_load(plan, model)]
        return [
            plan for plan in plans if plan.offer(now, model, group[1], request.batch_size, request, rate, 0) is not None
        ]

    def _accept(self, now: Nanos, offer: Offer, group: GroupKey, requests: list[PendingRequest]) -> None:
        batch = offer.plan.accept(now, offer, requests[0].model, group[1], requests)
        self._open.update(batch)
        for request in requests:
            self._batch_of[request.id] = batch
            self._plan_of[request.id] = offer.plan

    # --- what leaves the plans ---------------------------------------------------------------------------------------

    def forget(self, request: PendingRequest) -> None:
        """Forget a request that has ended or is about to be planned again.

        The request must not be in a planned batch.
        """
        self._plan_of.pop(request.id, None)

    def cancel(self, request: PendingRequest) -> Plan | None:
        """Remove the request from its batch. Return the plan, or None if the request is not planned."""
        self._plan_of.pop(request.id, None)
        batch = self._batch_of.pop(request.id, None)
        if batch is None:
            return None
        if batch.plan.remove(batch, request):
            self.close(batch)
        else:
            self._open.update(batch)
        return batch.plan

    def close(self, batch: PlannedBatch) -> None:
        """Record that a batch is sent or dropped, so that no request can join it any more."""
        self._open.drop(batch)
        for request in batch.requests:
            self._batch_of.pop(request.id, None)

    def close_part(self, part: PlannedBatch, rest: PlannedBatch) -> None:
        """Record that one part of a batch is sent, and that the rest of the batch stays planned."""
        self._open.update(rest)
        for request in part.requests:
            self._batch_of.pop(request.id, None)

    def drop_all(self, plan: Plan) -> list[PendingRequest]:
        """Drop all batches of a plan whose device is lost or refuses actions. Return the requests of these batches."""
        requests: list[PendingRequest] = []
        for batch in list(plan.batches):
            requests += batch.requests
            self.close(batch)
            plan.drop(batch)
        return requests

    def drop_model(self, plan: Plan, model: str) -> list[PendingRequest]:
        """Drop the batches of a model whose weights are no longer on the device.

        Return the requests of these batches.
        """
        self._weights.note_gone(plan, model)
        requests: list[PendingRequest] = []
        for batch in list(plan.batches_of.get(model, ())):
            requests += batch.requests
            self.close(batch)
            plan.drop(batch)
        return requests


def better(one: Offer | None, other: Offer | None) -> Offer | None:
    """Return the better offer. The criteria are, in this order: an idle device, a higher efficiency, an earlier end."""
    if one is None or other is None:
        return one or other
    if one.at_once != other.at_once:
        return one if one.at_once else other
    if one.efficiency != other.efficiency:
        return one if one.efficiency > other.efficiency else other
    return one if one.end <= other.end else other


def _same_deadline(requests: Sequence[PendingRequest], place: int) -> int:
    """Return the number of successive requests, beginning at ``place``, that have the same deadline."""
    end = place + 1
    while end < len(requests) and requests[end].deadline == requests[place].deadline:
        end += 1
    return end - place


def _fitting(requests: Sequence[PendingRequest], place: int, room: int) -> list[PendingRequest]:
    """Return the requests, beginning at ``place``, that fit into ``room`` rows."""
    taken, rows = list[PendingRequest](), 0
    for request in islice(requests, place, place + room):
        rows += request.batch_size
        if rows > room or (taken and request.model.unbatched):
            break
        taken.append(request)
    return taken
