"""Plans the next batches of one device, and finds places where more requests fit into this plan.

Theory of operation. A *batch* consists of requests for one model that will be executed by one Infer. The *capacity* of
a batch is the number of rows for which the plan reserves time. The capacity may exceed the current number of rows,
because more requests are expected before the batch is sent. A batch begins when the previous batch has ended and the
batch's own weights are loaded. If the device finishes a batch by the batch's time ``due``, every deadline in the batch
is met with all margins. The *slack* of a batch is the time by which this batch and all later batches may be delayed
without breaking a promise. So the slack shows whether a new batch may be inserted, and whether a batch may grow. A
batch that contains promised requests is delayed only within its slack.

Planning a request takes O(log n) time for n planned batches, because the `Timeline` finds in O(log n) when a batch
would begin and how much slack the plan has at that point.
"""

from itertools import islice
from typing import Final, NamedTuple

from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.device import Device, SentInfer
from clockwork.scheduling.clockwork.server_load import ServerLoad
from clockwork.scheduling.clockwork.timeline import FAR, Timeline, TimelineEntry
from clockwork.scheduling.shapes import ShapeKey, is_alone
from clockwork.state import ModelState, PendingRequest, PlannedWork, Verdict
from clockwork.units import Nanos

MAX_OVERTAKING: Final = 16
"""If the first batch is not full, this number of batches is searched for a full batch to send first."""

MAX_SENT: Final = 512
"""Limit of outstanding Infers on one device. Without this limit, a silent device would get more and more Infers."""

MAX_AHEAD: Final = 8
"""Number of models whose batches are listed in the verdict about a refused request."""

MAX_PASSED: Final = 64
"""If the first batch waits for its weights, this number of batches is searched for a batch with loaded weights."""


class PlannedBatch(TimelineEntry):
    """A planned batch: requests that will be executed by one Infer."""

    __slots__ = ("capacity", "key", "model", "plan", "requests", "rows", "wait_until", "wanted")

    def __init__(self, plan: "Plan", model: ModelState, key: ShapeKey, capacity: int, reserved: Nanos) -> None:
        """Create a batch without requests. The batch is not in a plan yet."""
        super().__init__(reserved)
        self.plan = plan
        self.model = model
        self.key = key
        self.capacity = capacity
        self.rows = 0
        self.wanted = 0  #: number of rows that an idle device waits for, until `wait_until`; 0: no wait
        self.wait_until: Nanos = 0
        self.requests: list[PendingRequest] = []


class Offer(NamedTuple):
    """A place in a device's plan for some requests: a new batch for these requests, or room in the planned ``batch``.

    A new batch is inserted in front of the batch ``before``, or at the end if ``before`` is None. ``room`` is the
    number of rows that fit into the batch, including the rows of the requests. ``cost`` is the additional time for
    which the device would be busy. ``efficiency`` is the expected number of rows per nanosecond of ``cost``. If the
    server is the bottleneck, the cost of a new batch for the server counts too (see `server_load`).
    ``at_once`` means that the device is idle.
    """

    plan: "Plan"
    batch: PlannedBatch | None
    before: PlannedBatch | None
    room: int
    reserved: Nanos
    cost: Nanos
    end: Nanos
    efficiency: float
    at_once: bool


class Plan:
    """The planned batches of one device in order; see the module's docstring."""

    def __init__(self, device: Device, config: ClockworkConfig, number: int, server: ServerLoad) -> None:
        """Create an empty plan. ``number`` is unique, and orders the plans. ``server`` is the load of the server."""
        self.device = device
        self.gpu = device.gpu
        self.number = number
        self.config = config
        self._server = server
        self.batches: Timeline[PlannedBatch] = Timeline()
        #: batches by model; contains only models with batches
        self.batches_of: dict[str, dict[PlannedBatch, None]] = {}
        self.booked: Nanos = 0  #: end of the last batch that refused clients can fill with retries
        self.records = False  #: whether the parts of decisions are recorded
        self.wake_at: Nanos = FAR  #: time at which `next_batch` has to be called again
        self._unplaced: tuple[float, Nanos] = (0.0, 0)  #: efficiency and time of the last refused batch
        self._claim: float = 0.0  #: efficiency of a batch for which the plan keeps time free
        self._claim_until: Nanos = 0
        self._claim_after: Nanos = 0  #: no new claim is made before this time

    def tail(self, now: Nanos) -> Nanos:
        """Return the time at which all planned batches will have ended."""
        return self.batches.end(self.device.first_start(now))

    def due(self, request: PendingRequest, end: Nanos, now: Nanos) -> Nanos:
        """Return the time by which the device must have executed a request, to meet the deadline with all margins."""
        config = self.config
        margin = config.safety_margin + int(config.safety_share * (end - now))
        return request.deadline - self.device.return_delay - margin

    def upcoming(self, now: Nanos, until: Nanos, limit: int) -> list[PlannedWork]:
        """Return the batches that begin before ``until``, at most ``limit`` of them."""
        found: list[PlannedWork] = []
        end = self.device.first_start(now)
        for batch in islice(self.batches, limit):
            begin = max(end, batch.ready)
            if begin >= until:
                break
            end = begin + batch.reserved
            found.append(PlannedWork(self.gpu, tuple(batch.requests), begin, end))
        return found

    def end_load(self, model: str) -> None:
        """Record that the load of a model has ended. The model's batches no longer wait for the load."""
        self.device.ready.pop(model, None)
        for batch in self.batches_of.get(model, ()):
            batch.ready = 0
            self.batches.update(batch)

    # --- offers ------------------------------------------------------------------------------------------------------

    def offer(
        self, now: Nanos, model: ModelState, key: ShapeKey, rows: int, first: PendingRequest, rate: float, ready: Nanos
    ) -> Offer | None:
        """Return the best place for a new batch of ``rows`` rows. ``first`` is the request with the earliest deadline.

        ``rate`` is the model's demand in requests per nanosecond. ``ready`` is the time when the model's weights will
        be loaded, or 0 if they are loaded.
        """
        if self.gpu.silent:
            return None
        best: Offer | None = None
        origin = self.device.first_start(now)
        for before in self._places(first.deadline, ready, origin):
            offer = self._offer_at(now, before, origin, model, key, rows, first, rate, ready)
            if offer is not None and (best is None or offer.end < best.end):
                best = offer
        return best

    def _places(self, deadline: Nanos, ready: Nanos, origin: Nanos) -> list[PlannedBatch | None]:
        """Return the places at which a batch might be inserted.

        The places are: the place in order of deadlines, the end (None), and the place before a batch that waits for its
        weights.
        """
        batches = self.batches
        if not batches:
            return [None]
        before = batches.place_for(deadline)
        places: list[PlannedBatch | None] = [None] if before is None else [before, None]
        first = batches.first
        if before is not first and first.ready > max(origin, ready):
            places.append(first)
        return places

    def _offer_at(
        self,
        now: Nanos,
        before: PlannedBatch | None,
        origin: Nanos,
        model: ModelState,
        key: ShapeKey,
        rows: int,
        first: PendingRequest,
        rate: float,
        ready: Nanos,
    ) -> Offer | None:
        if before is None:
            start, until = max(self.batches.end(origin), ready), FAR
        else:
            at = self.batches.free_at(before, origin)
            start, until = max(at, ready), max(at, before.ready) + self.batches.slack(before, at)
        at_once = not self.batches and not self.device.sent and not ready
        expected = rows + self.config.optimism * rate * (start - now)
        earliest = now + self.device.send_delay
        best_size, best_time, best_value, ideal, ideal_time = 0, 0, 0.0, 0.0, 0
        action_cost = self._server.action_cost(now)
        largest = max(first.batch_size, self._largest_size(model, key, action_cost))
        times = self.device.infer_times(now, model, key)
        for size in self.device.times.sizes(model):
            if size < first.batch_size:
                continue
            if size > largest and ideal:
                break
            time = times[size]
            value = min(expected, size) / (time + action_cost)
            if value > ideal and earliest + time <= self.due(first, earliest + time, now):
                ideal, ideal_time = value, time
            end = start + time
            if value > best_value and end <= self.due(first, end, now) and end <= until:
                best_size, best_time, best_value = size, time, value
        floor = self.config.efficiency_floor
        if not best_size or (not at_once and best_value < floor * ideal):
            self._unplaced = (ideal, ideal_time)
            return None
        if not at_once and now < self._claim_until and best_value < floor * self._claim:
            return None
        return Offer(self, None, before, best_size, best_time, best_time, start + best_time, best_value, at_once)

    def _largest_size(self, model: ModelState, key: ShapeKey, action_cost: Nanos) -> int:
        """Return the largest batch size to plan.

        If an action costs the server more, a batch size that takes more of the device's time per row is worthwhile too.
        """
        times = self.device.times
        if action_cost and not (model.unbatched or is_alone(model, key)):
            return times.sizes(model)[-1]
        return times.worthwhile_size(model, key)

    def claim_room(self, now: Nanos) -> None:
        """Keep time free for a batch like the last batch that was refused.

        Until the plan has room for this batch, the device begins no batch that is much less efficient. Without this
        rule, a full plan would only ever have room for the smallest batches. After the claim has ended, no claim is
        made for the same length of time, so that other models get their turn.
        """
        value, time = self._unplaced
        self._unplaced = (0.0, 0)
        if value and now >= self._claim_after:
            self._claim, self._claim_until = value, now + time
            self._claim_after = now + 2 * time

    @property
    def claim(self) -> tuple[float, Nanos]:
        """The efficiency of a batch for which the plan keeps time free, and until when it does so."""
        return self._claim, self._claim_until

    @claim.setter
    def claim(self, claim: tuple[float, Nanos]) -> None:
        self._claim, self._claim_until = claim

    def offer_to_join(
        self, now: Nanos, batch: PlannedBatch, rows: int, first: PendingRequest, rate: float
    ) -> Offer | None:
        """Return the best way to add ``rows`` rows to a planned batch, or None.

        The rows may fit within the batch's capacity, or the capacity may be increased.
        """
        if self.gpu.silent or batch.model.unbatched or is_alone(batch.model, batch.key):
            return None
        at = self.batches.free_at(batch, self.device.first_start(now))
        start = max(at, batch.ready)
        end, room = start + batch.reserved, batch.capacity - batch.rows
        if room >= first.batch_size:
            if end > self.due(first, end, now):
                return None
            return Offer(self, batch, None, room, batch.reserved, 0, end, float("inf"), False)
        slack = self.batches.slack(batch, at)
        expected = rows + rate * (start - now)
        best: Offer | None = None
        largest = self._largest_size(batch.model, batch.key, self._server.action_cost(now))
        times = self.device.infer_times(now, batch.model, batch.key)
        for size in self.device.times.sizes(batch.model):
            room = size - batch.rows
            if room < first.batch_size:
                continue
            if size > largest:
                break
            time = times[size]
            cost = max(0, time - batch.reserved)
            later = end + cost
            if cost > slack or later > self.due(first, later, now):
                break
            value = min(expected, room) / cost if cost else float("inf")
            if best is None or value > best.efficiency:
                best = Offer(self, batch, None, room, max(time, batch.reserved), cost, later, value, False)
        return best

    def accept(
        self, now: Nanos, offer: Offer, model: ModelState, key: ShapeKey, requests: list[PendingRequest]
    ) -> PlannedBatch:
        """Plan the requests in the offered place, set the promised time of each request, and return the batch."""
        batch = offer.batch
        if batch is None:
            batch = PlannedBatch(self, model, key, offer.room, offer.reserved)
            batch.ready = self.device.ready.get(model.name, 0)
            if offer.efficiency >= self._claim:
                self._claim_until = now
        elif offer.reserved > batch.reserved or offer.room > batch.capacity - batch.rows:
            batch.capacity = batch.rows + offer.room
            batch.reserved = offer.reserved
        promised = offer.end + self.device.return_delay
        verdict = self._verdict(now, offer, batch) if self.records else None
        for request in requests:
            request.promised = promised
            request.verdict = verdict
            batch.requests.append(request)
            batch.rows += request.batch_size
            batch.due = min(batch.due, self.due(request, offer.end, now))
        if offer.batch is None:
            self._insert(batch, offer.before)
        else:
            self.batches.update(batch)
        return batch

    def _verdict(self, now: Nanos, offer: Offer, batch: PlannedBatch) -> Verdict:
        """Return the parts of the decision to accept an offer."""
        device, config = self.device, self.config
        margin = config.safety_margin + int(config.safety_share * (offer.end - now))
        free = 0
        if batch.ready:
            place, origin = offer.batch or offer.before, device.first_start(now)
            free = self.batches.end(origin) if place is None else self.batches.free_at(place, origin)
        return Verdict(
            now,
            self.gpu.label,
            offer.end - batch.reserved,
            offer.end,
            batch.ready,
            device.send_delay,
            device.return_delay,
            margin,
            len(device.sent),
            len(self.batches),
            offer.batch is not None,
            free=free,
        )

    def ahead(self) -> tuple[tuple[str, int], ...]:
        """Return the number of unfinished Infers and planned batches by model, for some models with the most."""
        counts: dict[str, int] = {}
        for sent in islice(self.device.sent.values(), MAX_PASSED):
            counts[sent.model.served_as] = counts.get(sent.model.served_as, 0) + 1
        for batches in self.batches_of.values():
            name = next(iter(batches)).model.served_as
            counts[name] = counts.get(name, 0) + len(batches)
        return tuple(sorted(counts.items(), key=lambda item: -item[1])[:MAX_AHEAD])

    def is_full(self, batch: PlannedBatch) -> bool:
        """Return whether no request of any size can join the batch."""
        times, model = self.device.times, batch.model
        return batch.rows >= max(batch.capacity, min(times.worthwhile_size(model, batch.key), times.sizes(model)[-1]))

    def _insert(self, batch: PlannedBatch, before: PlannedBatch | None) -> None:
        self.batches.insert(batch, before)
        self.batches_of.setdefault(batch.model.name, {})[batch] = None

    def remove(self, batch: PlannedBatch, request: PendingRequest) -> bool:
        """Remove a request from its batch. Return whether the batch was dropped because it became empty."""
        batch.requests.remove(request)
        batch.rows -= request.batch_size
        if batch.requests:
            return False
        self.drop(batch)
        return True

    def drop(self, batch: PlannedBatch) -> None:
        """Remove the batch from the plan."""
        self.batches.remove(batch)
        name = batch.model.name
        batches = self.batches_of[name]
        del batches[batch]
        if not batches:
            del self.batches_of[name]

    # --- sending -----------------------------------------------------------------------------------------------------

    def next_batch(self, now: Nanos) -> PlannedBatch | None:
        """Return the batch to send now.

        If no batch can be sent now, return None and set `wake_at` to the time of the next attempt.
        """
        self.wake_at = FAR
        device = self.device
        if not self.batches or len(device.sent) >= MAX_SENT:
            return None
        lead = self.config.schedule_ahead + device.send_delay
        start = device.first_start(now)
        head = self.batches.first
        if head.rows < head.wanted and now < head.wait_until and not device.sent and len(self.batches) == 1:
            self.wake_at = head.wait_until
            return None
        ready = device.ready.get(head.model.name, 0)
        if max(start, ready) - now <= lead:
            return head if head.rows >= head.capacity else self._full_batch(now) or head
        if start - now <= lead:  # the first batch waits for its weights, so a later batch may use the time
            for batch in islice(self.batches, MAX_PASSED):
                if batch.model.name not in device.ready and start + batch.reserved <= ready:
                    return batch
        self.wake_at = max(start, ready) - lead
        if start - now > lead:
            self.wake_at = start - lead
        return None

    def _full_batch(self, now: Nanos) -> PlannedBatch | None:
        """Return a full batch that can be sent before the first batch without breaking a promise, or None.

        The first batch still has room for more requests.
        """
        room = FAR
        end = self.device.first_start(now)
        for batch in islice(self.batches, MAX_OVERTAKING):
            end = max(end, batch.ready) + batch.reserved
            if batch.rows >= batch.capacity and batch.reserved <= room and batch.model.name not in self.device.ready:
                return batch
            room = min(room, batch.due - end)
            if room < 0:
                return None
        return None

    def split(self, now: Nanos, batch: PlannedBatch) -> PlannedBatch | None:
        """Split the batch if two Infers take less time than one. Return the part to send first, or None.

        A batch takes as long as the next larger batch size that was measured. If five rows take as long as eight rows,
        an Infer of four rows and an Infer of one row may take less time.
        """
        rows, key, model, device = batch.rows, batch.key, batch.model, self.device
        sizes = device.times.sizes(model)
        if rows != len(batch.requests) or rows in sizes:
            return None
        size = max((size for size in sizes if size < rows), default=0)
        if not size:
            return None
        first, rest = device.infer_time(now, model, size, key), device.infer_time(now, model, rows - size, key)
        if first + rest + self._server.action_cost(now) >= device.infer_time(now, model, rows, key):
            return None
        part = PlannedBatch(self, model, key, size, first)
        requests = sorted(batch.requests, key=lambda request: request.deadline)
        part.requests, batch.requests = requests[:size], requests[size:]
        part.rows, batch.rows, part.due = size, rows - size, batch.due
        room = min(size for size in sizes if size >= batch.rows)
        time = device.infer_time(now, model, room, key)
        fits = first + time <= batch.reserved  # if there is time, the remaining batch keeps room for more requests
        batch.capacity, batch.reserved = (room, time) if fits else (batch.rows, rest)
        part.ready = batch.ready
        self.batches.update(batch)
        self._insert(part, batch)
        return part

    def note_sent(self, now: Nanos, action_id: int, batch: PlannedBatch, expected: Nanos, earliest: Nanos) -> None:
        """Remove a batch from the plan, because its Infer was sent. Add the Infer to the work of the device."""
        infer = SentInfer(batch.model, batch.key, batch.requests, rows=batch.rows, expected=expected, earliest=earliest)
        self.device.note_sent(now, action_id, infer)
        self.drop(batch)
