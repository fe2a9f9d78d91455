"""Keeps the last requests and actions, so that the server can explain a request after its response.

The memory is limited. The last requests in time are kept, and for each other outcome and each reason of a refusal, the
last requests. So a burst of refusals does not displace the broken promises. The last actions of all devices are kept
too. A request takes about a kilobyte. Recording takes about 1.4 us per request.

A request keeps no payload: `answered` releases it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

from clockwork.controller.records import Record
from clockwork.messages.actions import DeviceAction, Infer
from clockwork.messages.counts import REFUSAL_STATUSES
from clockwork.messages.explanation import BROKEN, CANCELLED, FAILED, IN_TIME, LATE, REFUSED
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.results import InferResult, LoadWeightsResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.messages.timeline import MAX_IDS
from clockwork.state import GPUState, PendingRequest, SentAction
from clockwork.units import Nanos


class Recorder:
    """The records of one controller."""

    def __init__(self, requests: int, failures: int) -> None:
        """Keep at most this many requests in time, actions, and requests of each other outcome or reason.

        Nothing is recorded if ``requests`` is 0.
        """
        self._limit, self._failures = requests, failures
        self._in_time: deque[Record] = deque(maxlen=requests)
        self._others: dict[str, deque[Record]] = {}  #: records by outcome, or by reason if the request was refused
        self._actions: deque[SentAction] = deque(maxlen=requests)
        self._outstanding: dict[int, SentAction] = {}
        self._ended = 0

    @property
    def enabled(self) -> bool:
        """Whether requests are recorded."""
        return self._limit > 0

    def __iter__(self) -> Iterator[Record]:
        """Iterate over all records. The order is undefined."""
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
        sent = SentAction(now, gpu.label, action, gpu.predicted_start(action.id) or 0)
        self._outstanding[action.id] = sent
        if requests:
            sent.ids = tuple([request.public_id for request in requests[:MAX_IDS]])
            sent.deadlines = tuple([request.deadline for request in requests])
            for request in requests:
                request.sent = sent

    def ended(self, now: Nanos, action: DeviceAction, result: Result, *, served: bool = True) -> None:
        """Record the result of an action. If its model is not ``served`` any more, forget the action."""
        sent = self._outstanding.pop(action.id, None)
        if sent is None:
            return
        self._ended += 1
        sent.arrived, sent.result, sent.number = now, result, self._ended
        if served:
            self._actions.append(sent)

    def lost(self, actions: Iterable[int]) -> None:
        """Forget actions that will have no result. ``actions`` contains their ids."""
        for action in actions:
            self._outstanding.pop(action, None)

    def before(self, device: str, begin: Nanos, end: Nanos, limit: int) -> list[SentAction]:
        """Return the actions that the device executed at any time from ``begin`` to ``end``, in order.

        If there are more than ``limit`` actions, the last of them are returned.
        """
        found: list[SentAction] = []
        for sent in reversed(self._actions):
            if sent.arrived < begin:
                break
            timing = timing_of(sent.result)
            if sent.device == device and timing is not None and timing.begin < end and timing.end > begin:
                found.append(sent)
                if len(found) == limit:
                    break
        return found[::-1]

    def after(self, number: int, begin: Nanos) -> list[SentAction]:
        """Return the ended actions with higher numbers whose results arrived at ``begin`` or later, in order."""
        found: list[SentAction] = []
        for sent in reversed(self._actions):
            if sent.number <= number or sent.arrived < begin:
                break
            found.append(sent)
        return found[::-1]

    def dropped(self, number: int) -> int:
        """Return how many of the ended actions with higher numbers are older than all recorded actions."""
        oldest = self._actions[0].number if self._actions else self._ended + 1
        return max(0, oldest - number - 1)

    def mates(self, request: PendingRequest) -> tuple[str, ...]:
        """Return the ids of the other requests in the last batch of a request, if they are still recorded."""
        if request.sent is None or not isinstance(request.sent.action, Infer) or len(request.sent.action.inputs) < 2:
            return ()
        return tuple(
            record.response.request_id
            for record in self
            if record.request is not None and record.request is not request and record.request.sent is request.sent
        )

    # --- requests ----------------------------------------------------------------------------------------------------

    def answered(
        self, now: Nanos, request: PendingRequest, response: InferResponse, reason: RefusalReason, *, broken: bool
    ) -> None:
        """Record a response to a pending request. Release the request's payload, which is not needed any more."""
        if not self._limit:
            return
        request.payload = None
        status = response.status
        if status == Status.SUCCESS:
            self._in_time.append(Record(now, IN_TIME, reason, broken, response, request))
        else:
            self._add(Record(now, _outcome(status), reason, broken, response, request))

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
            outcome = _outcome(response.status)
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

    def _add(self, record: Record) -> None:
        key = BROKEN if record.broken else record.reason.value if record.outcome == REFUSED else record.outcome
        records = self._others.get(key)
        if records is None:
            records = self._others[key] = deque(maxlen=self._failures)
        records.append(record)

    def forget(self, model: str) -> None:
        """Forget the requests and the actions of a model that was removed, so that its memory is free."""
        self._in_time = deque((each for each in self._in_time if not _is_of(each, model)), maxlen=self._limit)
        for key, records in self._others.items():
            self._others[key] = deque((each for each in records if not _is_of(each, model)), maxlen=self._failures)
        self._actions = deque((sent for sent in self._actions if sent.action.model != model), maxlen=self._limit)

    def find(self, request_id: str) -> tuple[Record | None, int]:
        """Return the last request with this id, and the number of earlier requests with this id."""
        found = [record for record in self if record.response.request_id == request_id]
        last = max(found, key=lambda record: record.answered, default=None)
        return last, max(0, len(found) - 1)

    def last(self, outcome: str, model: str, limit: int) -> list[Record]:
        """Return the last requests, with the newest first. An empty ``outcome`` or ``model`` means any."""
        newest_first = merge(
            reversed(self._in_time),
            *map(reversed, self._others.values()),
            key=lambda record: record.answered,
            reverse=True,
        )
        found = (
            record
            for record in newest_first
            if (not outcome or record.outcome == outcome or (outcome == BROKEN and record.broken))
            and (not model or model_of(record) == model)
        )
        return list(islice(found, limit))


def model_of(record: Record) -> str:
    """Return the name by which clients know the model of a request."""
    return record.model if record.request is None else record.request.model.served_as


def timing_of(result: Result | None) -> Timing | None:
    """Return when a device executed an action, or None if the action failed or has not ended."""
    if isinstance(result, InferResult):
        return result.exec
    return result.timing if isinstance(result, LoadWeightsResult) else None


def _is_of(record: Record, model: str) -> bool:
    return record.request is not None and record.request.model.name == model


def _outcome(status: int) -> str:
    if status == Status.TIMEOUT:
        return LATE
    if status in REFUSAL_STATUSES:
        return REFUSED
    return CANCELLED if status == Status.CANCELLED else FAILED
