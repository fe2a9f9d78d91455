"""Describes the timeline of the devices for the dashboard.

A snapshot contains the actions that have ended since the previous snapshot, but at most 1 s ago, and everything that is
expected to begin soon. The number of actions is limited. If more actions have ended, the newest are shown, and the
others are counted.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from clockwork.dashboard.units import ms
from clockwork.messages.timeline import EVICT, LOAD, Timeline, TimelineAction
from clockwork.steps import Steps
from clockwork.units import MICROSECOND, Nanos

MAX_ENDED: Final = 300
"""Largest number of ended actions in a snapshot."""

PER_STEP: Final = 50
"""Number of actions that are described in one step."""

READ_TIME: Final[Nanos] = 3 * MICROSECOND
"""Time that the controller takes to describe an action, for the limit on the time of snapshots."""

ReadTimeline: TypeAlias = Callable[[int, int], Awaitable[Timeline | None]]
"""Reads at most so many ended actions (the second argument) after an action (the first argument, a number).

The result is None if the server records no actions.
"""


class TimelineSection:
    """Reads and describes the timeline for each snapshot."""

    def __init__(self, read: ReadTimeline) -> None:
        """``read`` reads the controller's timeline."""
        self._read = read
        self._latest = 0
        self._rate = 0  #: number of actions that ended before the last snapshot and since the snapshot before it
        self._omitted = 0  #: number of actions that the last reading left out
        self.spent: Nanos = 0  #: time that the last reading took the controller

    async def read(self) -> Timeline | None:
        """Read what is new since the last call."""
        skipped = max(0, self._rate - MAX_ENDED) if self._latest else 0
        timeline = await self._read(self._latest + skipped, MAX_ENDED)
        self.spent = 0
        if timeline is not None:
            self._rate = timeline.latest - self._latest if self._latest else 0
            self._latest = timeline.latest
            self._omitted = skipped + timeline.latest - timeline.last
            self.spent = READ_TIME * (len(timeline.ended) + len(timeline.upcoming))
        return timeline

    def described(self, timeline: Timeline) -> Steps[dict[str, Any]]:
        """Return the actions of each device in the timeline that `read` has just returned."""
        devices: dict[str, dict[str, Any]] = {
            device: {"device": device, "done": [], "next": []} for device in timeline.devices
        }
        for number, action in enumerate((*timeline.ended, *timeline.upcoming)):
            device = devices.get(action.device)
            failed = action.begin is None and bool(action.status)
            if device is not None and action.kind != EVICT and not failed and (entry := _entry(action)) is not None:
                device["next" if action.begin is None else "done"].append(entry)
            if number % PER_STEP == PER_STEP - 1:
                yield
        return {"devices": list(devices.values()), "omitted": self._omitted, "at_risk": timeline.at_risk}


def _entry(action: TimelineAction) -> list[Any] | None:
    """Return an action as a list, or None if its time is unknown.

    The list contains: the id of the first request, whether it is a load, the model, begin, end, the estimate or 0, the
    number of rows, and the number of late requests.
    """
    begin = action.planned_begin if action.begin is None else action.begin
    end = action.planned_end if action.end is None else action.end
    if begin is None:
        return None
    planned_begin, planned_end = action.planned_begin, action.planned_end
    estimate = planned_end - planned_begin if planned_begin is not None and planned_end is not None else 0
    return [
        action.requests[0] if action.requests else "",
        int(action.kind == LOAD),
        action.model,
        ms(begin),
        ms(begin if end is None else end),
        ms(estimate),
        action.rows,
        action.late,
    ]
