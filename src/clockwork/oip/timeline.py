"""Describes the timeline of devices in JSON, with times in milliseconds of the server's clock."""

from typing import Any, Final

from clockwork.messages.timeline import Timeline, TimelineAction
from clockwork.steps import Steps
from clockwork.units import MILLISECOND

PER_STEP: Final = 25
"""Number of actions that are described in one step."""

_OPTIONAL: Final = ("number", "id", "status", "error")
_TIMES: Final = tuple(
    (name, f"{name}_ms")
    for name in ("sent", "arrived", "earliest", "latest", "planned_begin", "planned_end", "begin", "end")
)
"""The fields that are times, and the names of the members of the JSON object."""


def timeline_document(timeline: Timeline) -> Steps[dict[str, Any]]:
    """Return a timeline as a JSON object, in steps."""
    lists: dict[str, list[dict[str, Any]]] = {"ended": [], "upcoming": []}
    for name, actions in (("ended", timeline.ended), ("upcoming", timeline.upcoming)):
        for number, action in enumerate(actions):
            lists[name].append(_described(action))
            if number % PER_STEP == PER_STEP - 1:
                yield
    return {
        "now_ms": timeline.now / MILLISECOND,
        "last": timeline.last,
        "latest": timeline.latest,
        "dropped": timeline.dropped,
        "pending": timeline.pending,
        "at_risk": timeline.at_risk,
        "devices": timeline.devices,
        **lists,
    }


def _described(action: TimelineAction) -> dict[str, Any]:
    """Return an action as a JSON object. Members without a value are left out."""
    found: dict[str, Any] = {
        "device": action.device,
        "kind": action.kind,
        "model": action.model,
        "version": action.version,
        "rows": action.rows,
        "count": action.count,
        "requests": action.requests,
        "late": action.late,
    }
    for name in _OPTIONAL:
        if value := getattr(action, name):
            found[name] = value
    for name, member in _TIMES:
        if (at := getattr(action, name)) is not None:
            found[member] = at / MILLISECOND
    for member, span in (("input_ms", action.input), ("output_ms", action.output)):
        if span is not None:
            found[member] = [span[0] / MILLISECOND, span[1] / MILLISECOND]
    return found
