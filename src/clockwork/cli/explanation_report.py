"""Prints explanations of requests for people."""

from collections.abc import Iterator, Sequence
from typing import Final

from clockwork.cli.output import Listing, printable, table
from clockwork.messages.explanation import (
    REFUSED,
    Comparison,
    ExplainedAction,
    ExplainedVerdict,
    Explanation,
    RequestSummary,
    WhatIf,
)
from clockwork.units import Nanos, as_ms, as_seconds, show_duration

REQUEST_COLUMNS: Final = ("request", "model", "outcome", "reason", ">age", ">SLO", ">total")
REQUEST_DROP: Final = ("SLO", "age", "model")

STEP_NAMES: Final = {
    "plan": "waits in the plan of the device",
    "load": "the device loads the weights",
    "device": "waits on the worker",
    "input": "inputs are copied",
    "exec": "the device executes the batch",
    "output": "outputs are copied",
    "response": "the result returns",
}
COMPARED_NAMES: Final = {
    "load": "duration of the load",
    "begin": "begin of the batch",
    "exec": "duration of the batch",
    "response": "way of the result",
    "completion": "response",
}

MAX_AHEAD: Final = 5
"""Largest number of earlier batches that are printed."""


def request_table(requests: Sequence[RequestSummary]) -> Listing:
    """Return a table of recent requests."""
    rows = [
        (
            printable(request.request_id),
            printable(request.model),
            request.outcome + (", promise broken" if request.broken else ""),
            request.reason,
            _ago(request.age),
            show_duration(request.slo) if request.slo else "",
            show_duration(request.total),
        )
        for request in requests
    ]
    return table("", REQUEST_COLUMNS, rows, REQUEST_DROP)


def explanation_lines(found: Explanation) -> Iterator[Listing | str]:
    """Yield the text of an explanation."""
    yield from _headline(found)
    if found.slo:
        yield f"Deadline: {show_duration(found.slo)} after its arrival, from {found.slo_source}."
    if found.predicted is not None:
        yield f"Predicted completion: {show_duration(found.predicted)} after its arrival."
    if found.retry_after is not None:
        yield f"The client was told to retry after {show_duration(found.retry_after)}."
    if found.verdict is not None:
        yield from _verdict_lines(found, found.verdict)
    for what_if in found.what_if:
        yield f"- {_what_if(what_if, admitted=found.outcome != REFUSED or found.broken)}"
    if found.action is not None:
        yield from _action_lines(found, found.action)
    if found.steps:
        rows = [
            (STEP_NAMES[step.name], show_duration(step.begin), show_duration(step.end - step.begin))
            for step in found.steps
        ]
        yield table("What happened", ("step", ">begins after", ">takes"), rows)
    if found.compared:
        columns = ("", ">planned", ">actual", ">later by")
        yield table("The plan and what happened", columns, [_compared_row(each) for each in found.compared])
    if found.differed:
        yield f"\nThe largest delay against the plan: the {COMPARED_NAMES[found.differed]}."


def _headline(found: Explanation) -> Iterator[str]:
    name = f"{printable(found.model)}:{found.version}" if found.version else printable(found.model)
    rows = f" of {found.rows} rows" if found.rows > 1 else ""
    yield f"Request {printable(found.request_id)}{rows} for {name}, answered {_ago(found.age)} ago"
    outcome = found.outcome.replace("_", " ")
    if found.reason and not found.broken:
        outcome += f" ({found.reason})"
    admitted = ", although it was admitted" if found.broken else ""
    yield f"Outcome: {outcome} after {show_duration(found.total)}{admitted}, status {found.status}."
    if found.message:
        yield f"Response: {printable(found.message)}."
    if found.cold_start:
        yield "Cold start: no device had the model's weights when the request arrived."
    if found.same_id:
        earlier = "request" if found.same_id == 1 else "requests"
        yield f"{found.same_id} earlier {earlier} with the same id are recorded too."


def _verdict_lines(found: Explanation, verdict: ExplainedVerdict) -> Iterator[str]:
    waits = [f"Verdict {show_duration(verdict.at)} after its arrival, for {printable(verdict.device)}:"]
    waits.append(f"{verdict.sent} batch{'' if verdict.sent == 1 else 'es'} sent and {verdict.planned} planned there")
    if verdict.ahead:
        waits.append("(" + ", ".join(f"{each.batches} of {printable(each.model)}" for each in verdict.ahead) + ")")
    yield " ".join(waits) + "."
    weights = ""
    if verdict.weights_ready is not None and verdict.weights_ready > verdict.at:
        weights = f"; its weights are loaded after {show_duration(verdict.weights_ready)}"
    joins = "it joins a batch that begins" if verdict.joined else "its batch begins"
    yield (
        f"Planned: {joins} after {show_duration(verdict.start)} and takes {show_duration(verdict.estimate)}{weights}."
    )
    yield (
        f"The way to the worker takes {show_duration(verdict.way_there)}, and the way back "
        f"{show_duration(verdict.way_back)}; {show_duration(verdict.margin)} must be left before the deadline."
    )


def _what_if(what_if: WhatIf, *, admitted: bool) -> str:
    """Return a counterfactual as a sentence. ``admitted`` means that the request was admitted."""
    after = "" if what_if.completion is None else f" after {show_duration(what_if.completion)}"
    match what_if.change:
        case "slo":
            assert what_if.value is not None
            circumstance = f"With an SLO of {as_ms(what_if.value):.1f} ms"
        case "alone":
            late = "" if what_if.admitted else ", which is longer than its SLO"
            assert what_if.completion is not None
            return f"Alone it would have taken {show_duration(what_if.completion)}{late}."
        case "device":
            circumstance = "With one more idle device that has the weights"
        case _:
            circumstance = "With the weights on the device"
    if not what_if.admitted:
        return f"{circumstance} it would {'not have been in time either' if admitted else 'have been refused as well'}."
    return f"{circumstance} it would have been {'' if admitted else 'admitted, and '}answered{after}."


def _action_lines(found: Explanation, action: ExplainedAction) -> Iterator[str]:
    mates = len(found.mates)
    with_others = f", with {mates} other request{'' if mates == 1 else 's'}" if mates else ""
    rows = f"{action.rows} row{'' if action.rows == 1 else 's'}"
    yield f"Device: {printable(found.device)}, in a batch of {rows}{with_others}."
    if action.error:
        yield f"The batch failed: {printable(action.error)}."
    if found.ahead:
        shown = ", ".join(_ahead(action) for action in found.ahead[-MAX_AHEAD:])
        more = len(found.ahead) - MAX_AHEAD
        before = f"{more} more, then " if more > 0 else ""
        yield f"Executed there between its arrival and its begin: {before}{shown}."


def _ahead(action: ExplainedAction) -> str:
    assert action.begin is not None
    assert action.end is not None
    took = show_duration(action.end - action.begin)
    if action.kind == "load":
        return f"load of {printable(action.model)} ({took})"
    return f"{action.rows} row{'' if action.rows == 1 else 's'} of {printable(action.model)} ({took})"


def _compared_row(each: Comparison) -> tuple[str, ...]:
    later = "" if each.planned is None else _signed(each.actual - each.planned)
    planned = "" if each.planned is None else show_duration(each.planned)
    return COMPARED_NAMES[each.name], planned, show_duration(each.actual), later


def _signed(time: Nanos) -> str:
    return f"+{show_duration(time)}" if time > 0 else show_duration(time)


def _ago(age: Nanos) -> str:
    seconds = as_seconds(age)
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
