"""Keeps some of the last requests, so that the server can explain a request after its response.

Theory of operation. The memory is limited, and so is the time. All broken promises, late requests, failures and
refusals are kept until later ones displace them. For each of these outcomes, and for each reason of a refusal, there is
a limit of its own. So a burst of refusals does not displace the broken promises. Requests in time are sampled: at most
50 requests per second are kept, after a pause up to 50 requests at once. Requests in time that were cold, or later
than predicted, are sampled separately, because people ask about them. A request that is not kept costs only a few
comparisons.

The last actions are kept too, for the timeline (`clockwork.controller.timeline`) and for each device. A record gets the
actions that its request had to wait for. So the record stays complete when later actions displace them.

A record takes about a kilobyte. It keeps no payload: `answered` releases the payload. An action keeps no tensors. The
records of requests in time and the last actions are packed (`clockwork.controller.records`), because they are frequent.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Final

from clockwork.controller.events import ShedRequest
from clockwork.controller.records import (
    Kept,
    Record,
    is_of,
    may_have_id,
    model_of,
    pack,
    pack_action,
    unpack,
    unpack_action,
)
from clockwork.messages.actions import DeviceAction, EvictWeights, Infer
from clockwork.messages.explanation import BROKEN, REFUSED, outcome_of
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferRequest, InferResponse, RequestTiming, cancelled_response
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.messages.timeline import MAX_IDS
from clockwork.state import GPUState, PendingRequest, SentAction, WorkerState
from clockwork.units import MILLISECOND, SECOND, Nanos

SAMPLE_EVERY: Final[Nanos] = 20 * MILLISECOND
"""Mean time between two requests that a `Sampler` takes, if there are many requests."""

SAMPLE_BURST: Final[Nanos] = 1 * SECOND
"""Time for which a `Sampler` saves what it did not take."""

MAX_AHEAD: Final = 64
"""Number of the last actions of each device that are kept for the records of requests."""

MAX_ACTIONS: Final = 2000
"""Limit of the last actions of all devices that are kept for the timeline."""

SLOW: Final = "slow"
"""Key of the records of requests in time that were cold, or later than predicted."""


class Sampler:
    """Takes at most one request per `SAMPLE_EVERY` on average."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        """Start with the whole burst."""
        self._next: Nanos = -SAMPLE_BURST

    def takes(self, now: Nanos) -> bool:
        """Return whether to take one more request. ``now`` must not decrease."""
        if self._next > now:
            return False
        self._next = max(self._next, now - SAMPLE_BURST) + SAMPLE_EVERY
        return True


class Recorder:
    """The records of one controller."""

    def __init__(self, requests: int, failures: int) -> None:
        """Keep at most this many requests in time, and this many requests of each other outcome or reason.

        Nothing is recorded if ``requests`` is 0.
        """
        self._limit, self._failures = requests, failures
        self._in_time: deque[Kept] = deque(maxlen=requests)
        self._others: dict[str, deque[Kept]] = {}  #: by outcome, by reason if the request was refused, or `SLOW`
        self._usual, self._slow = Sampler(), Sampler()
        self._actions: deque[bytes] = deque(maxlen=min(requests, MAX_ACTIONS))  #: packed, with consecutive numbers
        self._by_device: dict[str, deque[SentAction]] = {}  #: the last loads and Infers of each device
        self._ended = 0
        self._outstanding: dict[int, SentAction] = {}
        self._waiting: dict[int, list[Record]] = {}  #: records whose batch has not ended, by the id of the action

    @property
    def enabled(self) -> bool:
        """Whether requests are recorded."""
        return self._limit > 0

    def __iter__(self) -> Iterator[Record]:
        """Iterate over all records. The order is undefined."""
        return map(unpack, self._kept())

    def _kept(self) -> Iterator[Kept]:
        yield from self._in_time
        for records in self._others.values():
            yield from records

    # --- actions -----------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> int:
        """Number of the last action that has ended."""
        return self._ended

    def outstanding(self) -> Iterable[SentAction]:
        """Return the actions that were sent and have not ended, in the order of sending."""
        return self._outstanding.values()

    def sent(self, now: Nanos, gpu: GPUState, action: DeviceAction, requests: Sequence[PendingRequest] = ()) -> None:
        """Record an action that is sent now for these requests."""
        if not self._limit:
            return
        number = action.id
        begin = gpu.predicted_start(number) or 0
        label, model, earliest, latest = gpu.label, action.model, action.earliest, action.latest
        if isinstance(action, EvictWeights):
            sent = SentAction(number, now, label, model, earliest, latest, 0, begin, evicts=True)
        else:
            sent = SentAction(number, now, label, model, earliest, latest, action.expected_duration, begin)
            if len(requests) == 1:
                (request,) = requests
                sent.rows, sent.requests = request.batch_size, 1
                sent.ids, sent.deadlines = (request.public_id,), (request.deadline,)
                request.sent = sent
            elif isinstance(action, Infer):
                sent.rows, sent.requests = action.batch_size, len(action.inputs)
                sent.ids = tuple([request.public_id for request in requests[:MAX_IDS]])
                sent.deadlines = tuple([request.deadline for request in requests])
                for request in requests:
                    request.sent = sent
        self._outstanding[number] = sent

    def ended(self, now: Nanos, action: DeviceAction, result: Result) -> None:
        """Record the result of an action."""
        sent = self._outstanding.pop(action.id, None)
        if sent is None:
            return
        self._ended += 1
        sent.end(now, self._ended, result)
        self._actions.append(pack_action(sent))
        if not sent.evicts:
            actions = self._by_device.get(sent.device)
            if actions is None:
                actions = self._by_device[sent.device] = deque(maxlen=MAX_AHEAD)
            actions.append(sent)
        if self._waiting:
            self._complete(action.id)

    def lost(self, worker: WorkerState) -> None:
        """Forget the actions of a worker that was lost. They will have no result."""
        for gpu in worker.gpus:
            for action in gpu.outstanding:
                if self._outstanding.pop(action, None) is not None:
                    self._complete(action)
            self._by_device.pop(gpu.label, None)

    def _complete(self, action: int) -> None:
        for record in self._waiting.pop(action, ()):
            record.ahead = self._ahead(record)

    def _ahead(self, record: Record) -> tuple[SentAction, ...]:
        """Return the actions that the device executed between the arrival and the begin of a request, in order."""
        request = record.request
        if request is None or request.sent is None:
            return ()
        own = request.sent
        begin = record.answered if own.timing is None else own.timing.begin
        found: list[SentAction] = []
        for sent in reversed(self._by_device.get(own.device, ())):
            if sent.arrived < request.arrival:
                break
            timing = sent.timing
            if sent is not own and timing is not None and timing.begin < begin and timing.end > request.arrival:
                found.append(sent)
        return tuple(found[::-1])

    def after(self, number: int, begin: Nanos) -> list[SentAction]:
        """Return the ended actions with higher numbers whose results arrived at ``begin`` or later, in order."""
        found: list[SentAction] = []
        for data in reversed(self._actions):
            sent = unpack_action(data)
            if sent.number <= number or sent.arrived < begin:
                break
            found.append(sent)
        return found[::-1]

    def dropped(self, number: int) -> int:
        """Return how many of the ended actions with higher numbers are older than all recorded actions."""
        return max(0, self._ended - len(self._actions) - number)

    # --- requests ----------------------------------------------------------------------------------------------------

    def answered(
        self, now: Nanos, request: PendingRequest, response: InferResponse, reason: RefusalReason, *, broken: bool
    ) -> None:
        """Record a response to a pending request, or forget a request in time that is not sampled.

        The payload of a recorded request is released, because it is not needed any more.
        """
        if not self._limit:
            return
        status = response.status
        if status == Status.SUCCESS:
            if request.cold_start or (request.promised is not None and now > request.promised):
                if self._slow.takes(now):
                    self._keep(SLOW, pack(self._recorded(now, request, response, reason)))
            elif self._usual.takes(now):
                self._in_time.append(pack(self._recorded(now, request, response, reason)))
        else:
            self._add(self._recorded(now, request, response, reason, broken))

    def cancelled(self, now: Nanos, request: PendingRequest) -> None:
        """Record a pending request whose client has cancelled it or disconnected."""
        if self._limit:
            predicted = None if request.promised is None else request.promised - request.arrival
            timing, version = RequestTiming(now - request.arrival), request.model.version
            response = cancelled_response(request.client_request_id, request.public_id, timing, predicted, version)
            self._add(self._recorded(now, request, response, RefusalReason.OTHER))

    def _recorded(
        self,
        now: Nanos,
        request: PendingRequest,
        response: InferResponse,
        reason: RefusalReason,
        broken: bool = False,
    ) -> Record:
        request.payload = None
        record = Record(now, outcome_of(response.status), reason, broken, response, request)
        sent = request.sent
        if sent is not None:
            if sent.arrived:
                record.ahead = self._ahead(record)
            else:
                self._waiting.setdefault(sent.id, []).append(record)
        return record

    def refused(
        self,
        now: Nanos,
        message: InferRequest,
        response: InferResponse,
        reason: RefusalReason,
        slo: Nanos = 0,
    ) -> None:
        """Record a response to a request that did not become pending."""
        if self._limit:
            outcome = outcome_of(response.status)
            self._add(
                Record(
                    now,
                    outcome,
                    reason,
                    False,
                    response,
                    None,
                    message.model,
                    slo or message.slo or 0,
                    message.slo_source,
                )
            )

    def shed(self, request: ShedRequest) -> None:
        """Record a request that the host has refused without asking the controller."""
        if self._limit:
            status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
            response = InferResponse(
                0,
                int(status),
                request.message,
                (),
                RequestTiming(request.waited),
                None,
                request.retry_after,
                request_id=request.request_id,
            )
            reason = RefusalReason.SERVER_OVERLOADED
            self._add(
                Record(request.refused, outcome_of(status), reason, False, response, None, request.model, request.slo)
            )

    def _add(self, record: Record) -> None:
        refused = record.outcome == REFUSED
        self._keep(BROKEN if record.broken else record.reason.value if refused else record.outcome, record)

    def _keep(self, key: str, record: Kept) -> None:
        records = self._others.get(key)
        if records is None:
            records = self._others[key] = deque(maxlen=self._failures)
        records.append(record)

    def forget(self, model: str) -> None:
        """Forget the requests of a model that was removed, so that its memory is free."""
        self._in_time = deque((each for each in self._in_time if not is_of(each, model)), maxlen=self._limit)
        for key, records in self._others.items():
            self._others[key] = deque((each for each in records if not is_of(each, model)), maxlen=self._failures)
        for action, waiting in self._waiting.items():
            self._waiting[action] = [each for each in waiting if not is_of(each, model)]

    def find(self, request_id: str) -> tuple[Record | None, int]:
        """Return the last request with this id, and the number of earlier requests with this id."""
        likely = [unpack(kept) for kept in self._kept() if may_have_id(kept, request_id)]
        found = [record for record in likely if record.response.request_id == request_id]
        last = max(found, key=lambda record: record.answered, default=None)
        return last, max(0, len(found) - 1)

    def last(self, outcome: str, model: str, limit: int) -> list[Record]:
        """Return the last requests, with the newest first. An empty ``outcome`` or ``model`` means any."""
        sources = [_newest(records, outcome, model) for records in (self._in_time, *self._others.values())]
        newest_first = merge(*sources, key=lambda record: record.answered, reverse=True)
        return [unpack(kept) for kept in islice(newest_first, limit)]


def _newest(records: deque[Kept], outcome: str, model: str) -> Iterator[Kept]:
    """Yield the records with this outcome and model, with the newest first.

    This is done before the records are merged, because merging takes ten times as long as comparing.
    """
    for record in reversed(records):
        if outcome and record.outcome != outcome and not (outcome == BROKEN and record.broken):
            continue
        if not model or model_of(record) == model:
            yield record


def mates_of(request: PendingRequest) -> tuple[str, ...]:
    """Return the ids of the other requests in the last batch of a request, for the first requests of the batch."""
    ids = [] if request.sent is None else list(request.sent.ids)
    if request.public_id in ids:
        ids.remove(request.public_id)
    return tuple(ids)
