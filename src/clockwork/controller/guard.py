"""Protects the controller from faults of the scheduler, which may be third-party code.

Only this module catches exceptions of schedulers. An exception becomes a report with the traceback. The requests that
were passed to the failed call are answered with ERROR. A returned value that is not a valid `Answer` also becomes a
report.
"""

import traceback
from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec

from clockwork.controller.events import Report
from clockwork.messages.actions import Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.explanation import WhatIf
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import PendingRequest, PlannedWork
from clockwork.units import FOREVER, Nanos

P = ParamSpec("P")


def ask(
    about: Iterable[PendingRequest],
    method: Callable[Concatenate[Nanos, P], list[Answer]],
    now: Nanos,
    *args: P.args,
    **kwargs: P.kwargs,
) -> list[Answer | Report]:
    """Call a scheduler's method and return its answers. Each invalid answer is replaced with a report.

    If the method raises an exception, return a report of the exception and an answer to each request in ``about``.
    """
    try:
        returned: list[object] = [*method(now, *args, **kwargs)]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - this module catches all exceptions of schedulers
        text = "the scheduler failed; the server's log has the reason"
        answers = [Answer(request.id, Status.ERROR, text) for request in about if not request.over]
        return [_raised(method.__name__, error), *answers]
    return [_checked(answer) for answer in returned] if returned else []


def _checked(answer: object) -> Answer | Report:
    """Return the answer. If the value is not an `Answer` or a field has the wrong type, return a report."""
    match answer:
        case Answer(request_id=int(), status=int(), message=str(), outputs=tuple()):
            predicted: object = answer.predicted
            retry: object = answer.retry_after
            reason: object = answer.reason
            times = (predicted is None or isinstance(predicted, int)) and (retry is None or isinstance(retry, int))
            if times and (reason is None or isinstance(reason, RefusalReason)):
                return answer
    return Report("ERROR", f"the scheduler returned {answer!r}, which is not a valid Answer")


def next_wakeup(scheduler: Scheduler) -> tuple[Nanos | None, list[Report]]:
    """Return when the scheduler's `wake` must be called next.

    None means never. The result is also None if the scheduler's method failed or did not return a time.
    """
    try:
        moment: object = scheduler.next_wakeup()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - this module catches all exceptions of schedulers
        return None, [_raised("next_wakeup", error)]
    if moment is None or isinstance(moment, int):
        return moment, []
    return None, [Report("ERROR", f"the scheduler's next_wakeup is {moment!r}; it must be an integer or None")]


def explain(scheduler: Scheduler, now: Nanos, request: PendingRequest) -> tuple[str, list[Report]]:
    """Return why a promise was broken. The text is empty if the scheduler does not know the reason."""
    try:
        reason: object = scheduler.explain(now, request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - this module catches all exceptions of schedulers
        text = f"the reason is unknown, because the scheduler raised {type(error).__name__}"
        return text, [_raised("explain", error)]
    return reason if isinstance(reason, str) else "", []


def counterfactuals(scheduler: Scheduler, request: PendingRequest) -> tuple[tuple[WhatIf, ...], list[Report]]:
    """Return what would have happened to a request under other circumstances, if the scheduler knows it."""
    try:
        found: object = scheduler.counterfactuals(request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - this module catches all exceptions of schedulers
        return (), [_raised("counterfactuals", error)]
    if isinstance(found, tuple) and all(isinstance(each, WhatIf) for each in found):
        return found, []
    return (), [Report("ERROR", f"the scheduler's counterfactuals returned {found!r}, which is not a tuple of WhatIf")]


def planned(scheduler: Scheduler, now: Nanos, until: Nanos, limit: int) -> tuple[tuple[PlannedWork, ...], list[Report]]:
    """Return the work that the scheduler plans to begin before ``until``, at most ``limit`` batches on each device."""
    try:
        found: object = scheduler.planned(now, until, limit)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - this module catches all exceptions of schedulers
        return (), [_raised("planned", error)]
    if isinstance(found, tuple) and all(isinstance(each, PlannedWork) and each.requests for each in found):
        return found, []
    return (), [Report("ERROR", f"the scheduler's planned returned {found!r}, which is not a tuple of PlannedWork")]


def expectations(now: Nanos, action: LoadWeights | Infer, start: object) -> tuple[Nanos, Nanos, Nanos]:
    """Return the earliest start, expected duration and expected start of an action that is sent now.

    ``start`` is the start that the scheduler expects. If one of the times is invalid, both expected times are 0.
    """
    earliest: object = action.earliest
    expected: object = action.expected_duration
    if not isinstance(earliest, int) or not isinstance(expected, int) or not isinstance(start, int):
        return now, 0, 0
    if 0 <= earliest < FOREVER and 0 <= expected < FOREVER and 0 <= start < FOREVER:
        return max(now, earliest), expected, start
    return now, 0, 0


def request_ids(action: Infer) -> list[int]:
    """Return the ids of the requests of an Infer. An invalid id becomes -1, which no request has."""
    found: list[object] = [share.request_id for share in action.inputs]
    return [request_id if isinstance(request_id, int) else -1 for request_id in found]


def _raised(method: str, error: BaseException) -> Report:
    """Return a report about an exception of the scheduler, with its traceback."""
    text = f"the scheduler raised in {method}: {type(error).__name__}: {error}"
    return Report("ERROR", f"{text}\n{traceback.format_exc()}")
