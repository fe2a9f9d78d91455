"""One device's future: what was sent to it, what is planned after that, and when each batch will be done.

Rules of the file: it holds one device and decides nothing about others. All moments are on the controller's clock.

Theory of operation. A *batch* is requests of one model that will be one Infer. It occupies its *reserved* time, the
estimate for its *capacity* in rows, of which more may be reserved than is filled: companions are expected until it is
sent. Batches follow each other in `Plan.batches`; each begins when the one before it ends and its weights are there.
``due`` is when a batch has to be done on the device so that every deadline in it is met with all margins. *Slack* of a
place in the plan is by how much everything from there on may be delayed without breaking a promise; so whether a batch
may be begun or grown is answered without trying. A promise once given is only ever moved within slack.

However much is planned, a request costs O(log n): the `Timeline` knows when a batch would begin, and the slack there.
"""

from itertools import islice
from typing import Final, NamedTuple

from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.timeline import FAR, Planned, Timeline
from clockwork.scheduling.clockwork.times import InferTimes
from clockwork.scheduling.estimates import Estimates, Pace, SlidingEstimate
from clockwork.scheduling.shapes import ShapeKey
from clockwork.state import GPUState, ModelState, PendingRequest
from clockwork.units import MILLISECOND, Nanos

DELAY_MOST: Final[Nanos] = 20 * MILLISECOND
"""A delay measured is not believed to be typical beyond this."""

OVERTAKING_MOST: Final = 16
"""Batches looked at for one that is full, where the first has room."""

MAX_SENT: Final = 512
"""Infers outstanding on one device. A device that is silent is sent no more than these."""

MAX_PASSED: Final = 64
"""Batches looked at for one whose weights are there, where the first waits for its own."""


class Batch(Planned):
    """Requests that will be one Infer."""

    __slots__ = ("capacity", "key", "model", "plan", "requests", "rows", "wait_until", "wanted")

    def __init__(self, plan: "Plan", model: ModelState, key: ShapeKey, capacity: int, reserved: Nanos) -> None:
        """Empty, and not planned yet."""
        super().__init__(reserved)
        self.plan = plan
        self.model = model
        self.key = key
        self.capacity = capacity
        self.rows = 0
        self.wanted = 0  #: rows that an idle device waits for, `wait_until` then; 0: none
        self.wait_until: Nanos = 0
        self.requests: list[PendingRequest] = []


class Offer(NamedTuple):
    """What a device could do for some requests: begin a batch, or (``batch``) let them join one.

    ``before`` is the batch that a new one goes in front of; None: the end. ``room`` is in rows; ``cost`` the time of
    the device that it takes; ``efficiency`` rows expected per nanosecond of it; ``at_once``: the device has nothing
    else to do.
    """

    plan: "Plan"
    batch: Batch | None
    before: Batch | None
    room: int
    reserved: Nanos
    cost: Nanos
    end: Nanos
    efficiency: float
    at_once: bool


class Sent:
    """An Infer that was sent and has not ended."""

    __slots__ = ("batch", "earliest", "expected", "not_before", "sent_at")

    def __init__(self, batch: Batch, expected: Nanos, not_before: Nanos, sent_at: Nanos, earliest: Nanos) -> None:
        """``not_before``: it cannot start before this."""
        self.batch = batch
        self.expected = expected
        self.not_before = not_before
        self.sent_at = sent_at
        self.earliest = earliest


class Plan:
    """See the module."""

    def __init__(self, gpu: GPUState, config: ClockworkConfig, number: int, way: Nanos) -> None:
        """Nothing is planned. ``number`` orders plans; ``way`` is how long a message seems to take, each way."""
        self.gpu = gpu
        self.number = number
        self.config = config
        self._times = InferTimes(gpu.kind, config.window)
        self.loads = Estimates(config.window, Pace())
        self.batches: Timeline[Batch] = Timeline()
        self.sent: dict[int, Sent] = {}  #: by action id, in order
        self._sent_of: dict[str, int] = {}  #: model -> how many of them, only where there are some
        self.free: Nanos = 0  #: when EXEC will have ended what was sent
        self.last_end: Nanos = 0  #: when it ended the last one that is known
        self.ready: dict[str, Nanos] = {}  #: models whose weights are on their way -> when they will be there
        self.last_load_end: Nanos = 0
        self.load_free: Nanos = 0  #: when LOAD will have ended what was sent
        self.pins: dict[str, dict[Batch, None]] = {}  #: model -> batches planned, only where there are some
        way = min(max(way, config.network_delay), DELAY_MOST)
        self.send_delay: Nanos = way  #: of a message to the worker; `note_delays` keeps both up to date
        self.return_delay: Nanos = way
        self._send_delays = SlidingEstimate(way, config.window)
        self._return_delays = SlidingEstimate(way, config.window)
        self.booked: Nanos = 0  #: clients that were refused were told to come back until then
        self._wanted: tuple[float, Nanos] = (0.0, 0)  #: efficiency and time of the batch that found no room last
        self._claim: float = 0.0  #: efficiency of a batch that room is made for
        self._claim_until: Nanos = 0
        self._claim_after: Nanos = 0  #: no new claim before
        self.trouble = ""  #: what broke the plan last
        self.wake_at: Nanos = FAR
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._worthwhile: dict[str, int] = {}

    # --- times -------------------------------------------------------------------------------------------------------

    def infer_time(self, now: Nanos, model: ModelState, rows: int, key: ShapeKey) -> Nanos:
        """The estimate of one Infer."""
        return self._times.of(now, model, rows, key)

    def load_time(self, now: Nanos, model: ModelState) -> Nanos:
        """The estimate of LoadWeights."""
        kind = self.gpu.kind
        return self.loads.of(model.info.digest, lambda: model.load_estimate(kind)).at(now)

    def sizes(self, model: ModelState) -> tuple[int, ...]:
        """The batch sizes worth reserving for, ascending."""
        sizes = self._sizes.get(model.info.digest)
        if sizes is None:
            most = model.max_rows
            sizes = tuple(size for size in model.profiles[self.gpu.kind].batch_sizes if size <= most)
            self._sizes[model.info.digest] = sizes
        return sizes

    def worthwhile(self, model: ModelState) -> int:
        """The largest batch size that pays; a request that is larger itself has the smallest that it fits in."""
        if model.unbatched:
            return 1
        size = self._worthwhile.get(model.info.digest)
        if size is None:
            size = self._worthwhile[model.info.digest] = model.profiles[self.gpu.kind].worthwhile_batch_size
        return size

    def first_start(self, now: Nanos) -> Nanos:
        """When something that is sent now could start.

        An Infer that is overdue is taken to need as long again as it is overdue: it is not known to end at all.
        """
        free = self.free
        if self.sent:
            overdue = now - free - self.return_delay
            if overdue > 0:
                free = now + overdue
        return max(free, now + self.send_delay)

    def tail(self, now: Nanos) -> Nanos:
        """When everything that is planned will have ended."""
        return self.batches.end(self.first_start(now))

    def due(self, request: PendingRequest, end: Nanos, now: Nanos) -> Nanos:
        """When the device has to be done with the request, given that it is planned to be at ``end``."""
        config = self.config
        margin = config.safety_margin + int(config.safety_share * (end - now))
        return request.deadline - self.return_delay - margin

    def weights_arrived(self, name: str) -> None:
        """The weights of a model are on their way no longer: its batches wait for them no more."""
        self.ready.pop(name, None)
        for batch in self.pins.get(name, ()):
            batch.ready = 0
            self.batches.update(batch)

    # --- offers ------------------------------------------------------------------------------------------------------

    def offer(
        self, now: Nanos, model: ModelState, key: ShapeKey, rows: int, first: PendingRequest, rate: float, ready: Nanos
    ) -> Offer | None:
        """The best batch that could be begun for ``rows`` rows whose tightest request is ``first``."""
        if self.gpu.silent:
            return None
        best: Offer | None = None
        origin = self.first_start(now)
        for before in self._places(first.deadline, ready, origin):
            offer = self._offer_at(now, before, origin, model, key, rows, first, rate, ready)
            if offer is not None and (best is None or offer.end < best.end):
                best = offer
        return best

    def _places(self, deadline: Nanos, ready: Nanos, origin: Nanos) -> list[Batch | None]:
        """Where a batch might go: by its deadline, at the end (None), into the gap before weights are there."""
        batches = self.batches
        if not batches:
            return [None]
        before = batches.place_for(deadline)
        places: list[Batch | None] = [None] if before is None else [before, None]
        first = batches.first
        if before is not first and first.ready > max(origin, ready):
            places.append(first)
        return places

    def _offer_at(
        self,
        now: Nanos,
        before: Batch | None,
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
        at_once = not self.batches and not self.sent and not ready
        expected = rows + self.config.optimism * rate * (start - now)
        earliest = now + self.send_delay
        best_size, best_time, best_value, ideal, ideal_time = 0, 0, 0.0, 0.0, 0
        most = max(first.batch_size, self.worthwhile(model))
        times = self._times.by_size(now, model, key)
        for size in self.sizes(model):
            if size < first.batch_size:
                continue
            if size > most and ideal:
                break
            time = times[size]
            value = min(expected, size) / time
            if value > ideal and earliest + time <= self.due(first, earliest + time, now):
                ideal, ideal_time = value, time
            end = start + time
            if value > best_value and end <= self.due(first, end, now) and end <= until:
                best_size, best_time, best_value = size, time, value
        floor = self.config.efficiency_floor
        if not best_size or (not at_once and best_value < floor * ideal):
            self._wanted = (ideal, ideal_time)
            return None
        if not at_once and now < self._claim_until and best_value < floor * self._claim:
            return None
        return Offer(self, None, before, best_size, best_time, best_time, start + best_time, best_value, at_once)

    def claim_room(self, now: Nanos) -> None:
        """Requests were refused: let the plan become empty enough for the batch that they would have been.

        Until then batches that make much worse use of the device are not begun: without that, a full plan only ever has
        room for the smallest. Afterwards, for as long, nobody can claim anything: it is everybody's turn.
        """
        value, time = self._wanted
        self._wanted = (0.0, 0)
        if value and now >= self._claim_after:
            self._claim, self._claim_until = value, now + time
            self._claim_after = now + 2 * time

    def offer_to_join(self, now: Nanos, batch: Batch, rows: int, first: PendingRequest, rate: float) -> Offer | None:
        """The best way to let ``rows`` more rows into a batch that is planned: into its room, or by growing it."""
        if self.gpu.silent or batch.model.unbatched:
            return None
        at = self.batches.free_at(batch, self.first_start(now))
        start = max(at, batch.ready)
        end, room = start + batch.reserved, batch.capacity - batch.rows
        if room >= first.batch_size:
            if end > self.due(first, end, now):
                return None
            return Offer(self, batch, None, room, batch.reserved, 0, end, float("inf"), False)
        slack = self.batches.slack(batch, at)
        expected = rows + rate * (start - now)
        best: Offer | None = None
        most = self.worthwhile(batch.model)
        times = self._times.by_size(now, batch.model, batch.key)
        for size in self.sizes(batch.model):
            room = size - batch.rows
            if room < first.batch_size:
                continue
            if size > most:
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
    ) -> Batch:
        """Plan the requests as was offered, and give each its promise."""
        batch = offer.batch
        if batch is None:
            batch = Batch(self, model, key, offer.room, offer.reserved)
            batch.ready = self.ready.get(model.name, 0)
            if offer.efficiency >= self._claim:
                self._claim_until = now
        elif offer.reserved > batch.reserved or offer.room > batch.capacity - batch.rows:
            batch.capacity = batch.rows + offer.room
            batch.reserved = offer.reserved
        promised = offer.end + self.return_delay
        for request in requests:
            request.promised = promised
            batch.requests.append(request)
            batch.rows += request.batch_size
            batch.due = min(batch.due, self.due(request, offer.end, now))
        if offer.batch is None:
            self._insert(batch, offer.before)
        else:
            self.batches.update(batch)
        return batch

    def is_full(self, batch: Batch) -> bool:
        """Whether no request can join the batch, whatever its size."""
        model = batch.model
        return batch.rows >= max(batch.capacity, min(self.worthwhile(model), self.sizes(model)[-1]))

    def _insert(self, batch: Batch, before: Batch | None) -> None:
        self.batches.insert(batch, before)
        self.pins.setdefault(batch.model.name, {})[batch] = None

    def remove(self, batch: Batch, request: PendingRequest) -> bool:
        """A request leaves its batch; returns whether the batch is gone with it."""
        batch.requests.remove(request)
        batch.rows -= request.batch_size
        if batch.requests:
            return False
        self.drop(batch)
        return True

    def drop(self, batch: Batch) -> None:
        """The batch is no longer planned."""
        self.batches.remove(batch)
        name = batch.model.name
        pinned = self.pins[name]
        del pinned[batch]
        if not pinned:
            del self.pins[name]

    # --- sending -----------------------------------------------------------------------------------------------------

    def next_batch(self, now: Nanos) -> Batch | None:
        """The batch to be sent now; None, and `wake_at` says when to ask again, if there is none yet."""
        self.wake_at = FAR
        if not self.batches or len(self.sent) >= MAX_SENT:
            return None
        lead = self.config.schedule_ahead + self.send_delay
        start = self.first_start(now)
        head = self.batches.first
        if head.rows < head.wanted and now < head.wait_until and not self.sent and len(self.batches) == 1:
            self.wake_at = head.wait_until
            return None
        ready = self.ready.get(head.model.name, 0)
        if max(start, ready) - now <= lead:
            return head if head.rows >= head.capacity else self._full_batch(now) or head
        if start - now <= lead:  # the head waits for its weights: somebody may use the time
            for batch in islice(self.batches, MAX_PASSED):
                if batch.model.name not in self.ready and start + batch.reserved <= ready:
                    return batch
        self.wake_at = max(start, ready) - lead
        if start - now > lead:
            self.wake_at = start - lead
        return None

    def _full_batch(self, now: Nanos) -> Batch | None:
        """A full batch that can go before the head, which has room for companions, without breaking a promise."""
        room = FAR
        end = self.first_start(now)
        for batch in islice(self.batches, OVERTAKING_MOST):
            end = max(end, batch.ready) + batch.reserved
            if batch.rows >= batch.capacity and batch.reserved <= room and batch.model.name not in self.ready:
                return batch
            room = min(room, batch.due - end)
            if room < 0:
                return None
        return None

    def split(self, now: Nanos, batch: Batch) -> Batch | None:
        """The part of a batch that is better sent by itself, before the rest; None if all go together.

        Batch sizes have steps: where five rows take as long as eight, four and one take less.
        """
        rows, key, model = batch.rows, batch.key, batch.model
        if rows != len(batch.requests) or rows in self.sizes(model):
            return None
        size = max((size for size in self.sizes(model) if size < rows), default=0)
        if not size:
            return None
        first, rest = self.infer_time(now, model, size, key), self.infer_time(now, model, rows - size, key)
        if first + rest >= self.infer_time(now, model, rows, key):
            return None
        part = Batch(self, model, key, size, first)
        requests = sorted(batch.requests, key=lambda request: request.deadline)
        part.requests, batch.requests = requests[:size], requests[size:]
        part.rows, batch.rows, part.due = size, rows - size, batch.due
        room = min(size for size in self.sizes(model) if size >= batch.rows)
        time = self.infer_time(now, model, room, key)
        fits = first + time <= batch.reserved  # or the rest keeps no room for companions
        batch.capacity, batch.reserved = (room, time) if fits else (batch.rows, rest)
        part.ready = batch.ready
        self.batches.update(batch)
        self._insert(part, batch)
        return part

    def earliest_for(self, now: Nanos, start: Nanos) -> Nanos:
        """The ``earliest`` of an Infer that is sent now, so that the device executes in the order of the plan.

        A worker orders by ``earliest``, and lets others pass an Infer that waits for its weights.
        """
        if not self.sent:
            return now
        if any(name in self._sent_of for name in self.ready):
            return max(now, start)
        return max(now, next(reversed(self.sent.values())).earliest)  # never before that of an Infer sent sooner

    def note_sent(self, now: Nanos, action_id: int, batch: Batch, expected: Nanos, earliest: Nanos) -> None:
        """The batch's Infer is on its way."""
        start = max(self.first_start(now), self.ready.get(batch.model.name, 0))
        name = batch.model.name
        self._sent_of[name] = self._sent_of.get(name, 0) + 1
        self.sent[action_id] = Sent(batch, expected, max(earliest, now + self.send_delay), now, earliest)
        self.free = start + expected
        self.drop(batch)

    def note_ended(self, now: Nanos, action_id: int, begin: Nanos, end: Nanos) -> Sent | None:
        """An Infer has ended; what was measured counts from now on. None if the plan did not send it."""
        sent = self._take_sent(action_id)
        if sent is None:
            return None
        if now - end > self.return_delay:
            self.trouble = f"a result of {self.gpu} took {(now - end) / MILLISECOND:.3f} ms on its way"
        waited = self.last_end > sent.sent_at or bool(self.ready)
        self.note_delays(now, None if waited else sent.sent_at, begin, end)
        self._times.add(now, sent.batch.model, sent.batch.rows, sent.batch.key, end - begin)
        if end - begin > sent.expected:
            self.trouble = (
                f"Infer {action_id} of {sent.batch.model.name} took {(end - begin) / MILLISECOND:.3f} ms "
                f"on {self.gpu}, "
                f"estimated were {sent.expected / MILLISECOND:.3f}"
            )
        self._rechain(end)
        return sent

    def note_delays(self, now: Nanos, sent_at: Nanos | None, begin: Nanos, end: Nanos) -> None:
        """What the ways there and back took; ``sent_at`` of an action that waited for nothing, else None."""
        if sent_at is not None:
            self._send_delays.add(min(max(begin - sent_at, 0), DELAY_MOST))
            self.send_delay = self._send_delays.value
        self._return_delays.add(min(max(now - end, 0), DELAY_MOST))
        self.return_delay = self._return_delays.value

    def what_is_wrong(self, now: Nanos) -> str:
        """What the device is behind with, for those who waited for it in vain."""
        for action_id, sent in self.sent.items():
            late = now - max(sent.not_before, self.last_end) - sent.expected
            if late > 0:
                return (
                    f"Infer {action_id} of {sent.batch.model.name} is overdue on {self.gpu} by "
                    f"{late / MILLISECOND:.3f} ms, estimated were {sent.expected / MILLISECOND:.3f}"
                )
            break
        for model, ready in self.ready.items():
            if now > ready:
                return f"LoadWeights of {model} is overdue on {self.gpu} by {(now - ready) / MILLISECOND:.3f} ms"
        return self.trouble

    def note_failed(self, now: Nanos, action_id: int, why: str) -> Sent | None:
        """An Infer has ended without being executed, or with an error."""
        sent = self._take_sent(action_id)
        if sent is not None:
            self.trouble = f"Infer {action_id} of {sent.batch.model.name} failed on {self.gpu}: {why}"
            self._rechain(max(self.last_end, min(self.free, now)))
        return sent

    def _take_sent(self, action_id: int) -> Sent | None:
        sent = self.sent.pop(action_id, None)
        if sent is not None:
            name = sent.batch.model.name
            left = self._sent_of[name] - 1
            if left:
                self._sent_of[name] = left
            else:
                del self._sent_of[name]
        return sent

    def _rechain(self, end: Nanos) -> None:
        self.last_end = at = max(end, self.last_end)
        for sent in self.sent.values():
            at = max(at, sent.not_before, self.ready.get(sent.batch.model.name, 0)) + sent.expected
        self.free = at
