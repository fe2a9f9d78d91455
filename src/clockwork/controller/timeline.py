"""Returns the timeline of devices: the recorded actions, the outstanding actions, and the work that is planned.

The timeline is computed from the actions that `clockwork.controller.recording` keeps. So a reader gets the actions that
ended before it connected, and the server does no additional work while nobody reads the timeline. The duration of a
read depends on the number of actions in the response, which is limited.
"""

from typing import Final

from clockwork.controller.events import ControllerCommand, Report, Respond
from clockwork.controller.explaining import DISABLED
from clockwork.controller.guard import planned
from clockwork.controller.recording import Recorder
from clockwork.messages.results import Timing
from clockwork.messages.status import Status, status_name
from clockwork.messages.timeline import (
    EVICT,
    INFER,
    LOAD,
    MAX_IDS,
    MAX_LIMIT,
    MAX_SPAN,
    Timeline,
    TimelineAction,
    TimelineRequest,
    TimelineResponse,
)
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, PlannedWork, SentAction
from clockwork.state.sent import NO_RESULT
from clockwork.units import FOREVER, SECOND, Nanos

MAX_PLANNED: Final = 64
"""Largest number of planned batches of one device in a timeline."""

MAX_UPCOMING: Final = 512
"""Largest number of outstanding actions and planned batches in a timeline."""


class TimelineReader:
    """Answers requests for the timeline."""

    def __init__(self, recorder: Recorder, state: ClockworkState, scheduler: Scheduler) -> None:
        """All objects are those of the stage SERVING."""
        self._recorder = recorder
        self._state = state
        self._scheduler = scheduler

    def read(self, now: Nanos, client_id: int, message: TimelineRequest, pending: int) -> list[ControllerCommand]:
        """Return the response with the timeline. ``pending`` is the number of clients' pending requests."""
        if wrong := self._why_wrong(message):
            return [Respond(client_id, TimelineResponse(message.id, Status.INVALID_REQUEST, wrong))]
        after = message.after if message.after <= self._recorder.latest else 0  # the server has restarted since
        found = self._recorder.after(after, now - message.past)
        ended = tuple(map(self._ended, found[: message.limit]))
        upcoming, reports = self._upcoming(now, now + message.horizon) if message.horizon else ((), [])
        latest = self._recorder.latest
        timeline = Timeline(
            now,
            ended[-1].number if ended else latest,
            latest,
            self._recorder.dropped(after) if after else 0,
            pending,
            sum([action.late for action in upcoming]),
            tuple([gpu.label for gpu in self._state.gpus()]),
            ended,
            upcoming,
        )
        return [*reports, Respond(client_id, TimelineResponse(message.id, Status.SUCCESS, "", timeline))]

    def _why_wrong(self, message: TimelineRequest) -> str:
        """Return why a request cannot be answered, or an empty text."""
        if not self._recorder.enabled:
            return DISABLED
        if message.after < 0:
            return f"after is {message.after}; it must be the number of an action, or 0"
        if not 1 <= message.limit <= MAX_LIMIT:
            return f"limit is {message.limit}; it must be from 1 to {MAX_LIMIT}"
        for name, span in (("past", message.past), ("horizon", message.horizon)):
            if not 0 <= span <= MAX_SPAN:
                return f"{name} is {span} ns; it must be from 0 to {MAX_SPAN // SECOND} s"
        return ""

    def _upcoming(self, now: Nanos, until: Nanos) -> tuple[tuple[TimelineAction, ...], list[Report]]:
        """Return the outstanding actions and the planned work by device."""
        by_device: dict[str, list[TimelineAction]] = {gpu.label: [] for gpu in self._state.gpus()}
        number = 0
        for sent in self._recorder.outstanding():
            if number == MAX_UPCOMING or sent.device not in by_device:
                continue
            number += 1
            by_device[sent.device].append(self._described(sent, _missed(sent, max(now, _planned_end(sent) or now))))
        plans, reports = planned(self._scheduler, now, until, MAX_PLANNED) if by_device else ((), [])
        for work in plans[: MAX_UPCOMING - number]:
            if work.gpu.label in by_device:
                by_device[work.gpu.label].append(_planned(work))
        return tuple([action for actions in by_device.values() for action in actions]), reports

    def _ended(self, sent: SentAction) -> TimelineAction:
        return self._described(sent, _missed(sent, sent.arrived))

    def _described(self, sent: SentAction, late: int) -> TimelineAction:
        model = self._state.models.get(sent.model)
        timing = sent.timing
        return TimelineAction(
            sent.number,
            sent.id,
            sent.device,
            INFER if sent.rows else EVICT if sent.evicts else LOAD,
            sent.model if model is None else model.served_as,
            "" if model is None else model.version,
            sent.rows,
            sent.requests,
            tuple([name for name in sent.ids if name]),
            sent.sent,
            sent.arrived or None,
            sent.earliest or None,
            sent.latest if sent.latest < FOREVER else None,
            sent.expected_begin or None,
            _planned_end(sent),
            None if timing is None else timing.begin,
            None if timing is None else timing.end,
            _span(sent.copy_input),
            _span(sent.copy_output),
            late,
            "" if sent.status == NO_RESULT else status_name(sent.status),
            sent.error,
        )


def _planned(work: PlannedWork) -> TimelineAction:
    model = work.requests[0].model
    return TimelineAction(
        0,
        0,
        work.gpu.label,
        INFER,
        model.served_as,
        model.version,
        sum([request.batch_size for request in work.requests]),
        len(work.requests),
        tuple([request.public_id for request in work.requests[:MAX_IDS] if request.public_id]),
        planned_begin=work.begin,
        planned_end=work.end,
        late=sum([request.deadline < work.end for request in work.requests]),
    )


def _planned_end(sent: SentAction) -> Nanos | None:
    """Return the predicted end of an action, or None if there was no prediction."""
    return sent.expected_begin + sent.expected if sent.expected_begin and sent.expected else None


def _missed(sent: SentAction, end: Nanos) -> int:
    """Return the number of an action's requests whose deadline is before ``end``."""
    return sum([deadline < end for deadline in sent.deadlines])


def _span(timing: Timing | None) -> tuple[Nanos, Nanos] | None:
    return None if timing is None or timing.end <= timing.begin else (timing.begin, timing.end)
