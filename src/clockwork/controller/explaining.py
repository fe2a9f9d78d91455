"""Explains a recorded request: what was predicted, what happened, and which part was later than planned.

The plan is the prediction that the controller made when it sent the request's batch. So the requests of every scheduler
can be explained.
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from clockwork.controller.admission import Admission
from clockwork.controller.events import ControllerCommand, Report, Respond
from clockwork.controller.guard import counterfactuals
from clockwork.controller.pending import Pending
from clockwork.controller.recording import Recorder, mates_of
from clockwork.controller.records import Record, model_of
from clockwork.messages.explanation import (
    IN_TIME,
    LATE,
    MAX_LISTED,
    OUTCOMES,
    REFUSED,
    SLO_SOURCES,
    Ahead,
    Comparison,
    ExplainedAction,
    ExplainedVerdict,
    Explanation,
    RequestSummary,
    Step,
)
from clockwork.messages.faults import quoted
from clockwork.messages.request_ids import MAX_REQUEST_ID
from clockwork.messages.requests import ExplainRequest, ExplainResponse, ListRequestsRequest, ListRequestsResponse
from clockwork.messages.status import Status, status_name
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, PendingRequest, SentAction, Verdict
from clockwork.units import Nanos

DISABLED: Final = "requests are not recorded; start the server with --explain-requests above 0"
"""Message of the response if the server records no requests."""

COMPLETION: Final = "completion"
"""Name of the comparison of the predicted completion with the time of the response."""


class Explaining:
    """Answers the questions about recent requests."""

    def __init__(
        self,
        recorder: Recorder,
        admission: Admission,
        pending: Pending,
        state: ClockworkState,
        scheduler: Scheduler,
    ) -> None:
        """All objects are those of the stage SERVING."""
        self._recorder = recorder
        self._scheduler = scheduler
        self._admission = admission
        self._pending = pending
        self._state = state

    def listed(self, now: Nanos, client_id: int, message: ListRequestsRequest) -> Respond:
        """Return the response with the last requests."""
        if message.outcome and message.outcome not in OUTCOMES:
            text = f"outcome {quoted(message.outcome)} is unknown; expected one of: {', '.join(OUTCOMES)}"
        elif not 1 <= message.limit <= MAX_LISTED:
            text = f"limit is {message.limit}; it must be from 1 to {MAX_LISTED}"
        elif not self._recorder.enabled:
            text = DISABLED
        else:
            found = self._recorder.last(message.outcome, message.model, message.limit)
            requests = tuple(summarise(now, record) for record in found)
            return Respond(client_id, ListRequestsResponse(message.id, Status.SUCCESS, "", requests))
        return Respond(client_id, ListRequestsResponse(message.id, Status.INVALID_REQUEST, text))

    def explained(self, now: Nanos, client_id: int, message: ExplainRequest) -> list[ControllerCommand]:
        """Return the response with the explanation of one request."""
        request_id = message.request_id[:MAX_REQUEST_ID]
        record, others = self._recorder.find(request_id)
        if record is None:
            status, text = self._why_missing(request_id)
            return [Respond(client_id, ExplainResponse(message.id, status, text))]
        model = None if record.request is None else record.request.model
        default = "" if model is None else self._admission.default_source(model)
        made = _explanation(now, record, others, self._state, default)
        reports: list[Report] = []
        if record.request is not None and record.request.verdict is not None:
            what_if, reports = counterfactuals(self._scheduler, record.request)
            made = replace(made, verdict=_verdict(record.request, record.request.verdict), what_if=what_if)
        return [*reports, Respond(client_id, ExplainResponse(message.id, Status.SUCCESS, "", made))]

    def _why_missing(self, request_id: str) -> tuple[Status, str]:
        if not self._recorder.enabled:
            return Status.INVALID_REQUEST, DISABLED
        if any(request.public_id == request_id for request in self._pending):
            return Status.INVALID_REQUEST, f"request {quoted(request_id)} is still pending; retry later"
        return Status.INVALID_REQUEST, (
            f"request {quoted(request_id)} is not recorded: it is unknown, it was in time and not sampled, or too many "
            "requests followed it (--explain-requests, --explain-failures)"
        )


def summarise(now: Nanos, record: Record) -> RequestSummary:
    """Return one line of a list of recent requests."""
    return RequestSummary(
        request_id=record.response.request_id,
        model=model_of(record),
        version=record.response.version,
        outcome=record.outcome,
        reason=record.reason.value if record.outcome == REFUSED else "",
        age=now - record.answered,
        slo=_slo(record),
        total=record.response.timing.total,
        broken=record.broken,
        message=record.response.message,
    )


def _explanation(now: Nanos, record: Record, same_id: int, state: ClockworkState, default: str) -> Explanation:
    """Return everything that is known about a request.

    ``same_id`` is the number of other requests with its id. ``default`` is the source of its SLO if it set none.
    """
    response, request = record.response, record.request
    summary = summarise(now, record)
    source = record.slo_source if request is None else request.slo_source
    made = Explanation(
        request_id=summary.request_id,
        model=summary.model,
        version=summary.version,
        same_id=same_id,
        age=summary.age,
        outcome=summary.outcome,
        reason=summary.reason,
        broken=record.broken,
        status=status_name(response.status),
        message=summary.message,
        rows=0 if request is None else request.batch_size,
        cold_start=request is not None and request.cold_start,
        slo=summary.slo,
        slo_source=SLO_SOURCES.get(source or default, "") if summary.slo else "",
        total=summary.total,
        predicted=response.predicted,
        retry_after=response.retry_after,
    )
    if request is None or request.sent is None:
        return made
    return _Executed(record, request, request.sent, state).added_to(made)


def _verdict(request: PendingRequest, verdict: Verdict) -> ExplainedVerdict:
    arrival = request.arrival
    return ExplainedVerdict(
        at=verdict.at - arrival,
        device=verdict.device,
        sent=verdict.sent,
        planned=verdict.planned,
        ahead=tuple(Ahead(model, batches) for model, batches in verdict.ahead),
        joined=verdict.joined,
        start=verdict.start - arrival,
        end=verdict.end - arrival,
        estimate=verdict.end - verdict.start,
        weights_ready=verdict.ready - arrival if verdict.ready else None,
        way_there=verdict.send_delay,
        way_back=verdict.return_delay,
        margin=verdict.margin,
    )


def _slo(record: Record) -> Nanos:
    return record.slo if record.request is None else record.request.deadline - record.request.arrival


class _Executed:
    """A request that was sent to a device in the action ``sent``."""

    def __init__(self, record: Record, request: PendingRequest, sent: SentAction, state: ClockworkState) -> None:
        self._record, self._request, self._sent, self._state = record, request, sent, state
        self._arrival = request.arrival
        loads = [each for each in record.ahead if each.loads and each.model == sent.model]
        self._load = loads[-1] if loads else None

    def added_to(self, made: Explanation) -> Explanation:
        """Return the explanation with what the device did."""
        compared = self._compared()
        late = [each for each in compared if each.planned is not None and each.name != COMPLETION]
        worst = max(late, key=_delay, default=None)
        return replace(
            made,
            device=self._sent.device,
            action=self._described(self._sent),
            load=None if self._load is None else self._described(self._load),
            mates=mates_of(self._request),
            ahead=tuple(map(self._described, self._record.ahead)),
            steps=tuple(self._steps()),
            compared=compared,
            differed=worst.name if worst is not None and _delay(worst) > 0 else "",
        )

    def _described(self, sent: SentAction) -> ExplainedAction:
        timing, arrival = sent.timing, self._arrival
        model = self._state.models.get(sent.model)
        return ExplainedAction(
            kind="infer" if sent.rows else "load",
            model=sent.model if model is None else model.served_as,
            rows=sent.rows,
            sent=sent.sent - arrival,
            begin=None if timing is None else timing.begin - arrival,
            end=None if timing is None else timing.end - arrival,
            expected_begin=sent.expected_begin - arrival if sent.expected_begin else None,
            expected=sent.expected or None,
            error=sent.error,
        )

    def _steps(self) -> Iterator[Step]:
        arrival, sent = self._arrival, self._sent
        yield Step("plan", 0, sent.sent - arrival)
        loaded = None if self._load is None else self._load.timing
        if loaded is not None:
            yield Step("load", loaded.begin - arrival, loaded.end - arrival)
        executed, copied_in, copied_out = sent.timing, sent.copy_input, sent.copy_output
        answered = self._record.answered
        if executed is None or copied_in is None or copied_out is None:  # the Infer failed, or has no result
            until = min(sent.arrived, answered) if sent.arrived else answered
            yield Step("device", sent.sent - arrival, until - arrival)
            return
        yield Step("device", sent.sent - arrival, executed.begin - arrival)
        for name, timing in (("input", copied_in), ("exec", executed), ("output", copied_out)):
            if timing.end > timing.begin:
                yield Step(name, timing.begin - arrival, timing.end - arrival)
        done = max(executed.end, copied_out.end)
        if done <= answered:  # otherwise, the request was late or cancelled while the device executed it
            yield Step("response", done - arrival, answered - arrival)

    def _compared(self) -> tuple[Comparison, ...]:
        arrival, sent = self._arrival, self._sent
        compared = []
        loaded = None if self._load is None else self._load.timing
        if self._load is not None and loaded is not None:
            compared.append(Comparison("load", self._load.expected or None, loaded.duration))
        timing = sent.timing
        if timing is not None:
            verdict = self._request.verdict
            expected = sent.expected_begin if verdict is None else verdict.start
            compared.append(Comparison("begin", expected - arrival if expected else None, timing.begin - arrival))
            compared.append(Comparison("exec", sent.expected or None, timing.duration))
            way_back = None if verdict is None else verdict.return_delay
            compared.append(Comparison("response", way_back, sent.arrived - timing.end))
        response = self._record.response
        if self._record.outcome in (IN_TIME, LATE):
            compared.append(Comparison(COMPLETION, response.predicted, response.timing.total))
        return tuple(compared)


def _delay(compared: Comparison) -> Nanos:
    return 0 if compared.planned is None else compared.actual - compared.planned
