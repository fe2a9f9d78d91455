"""The timeline of devices: what they executed recently, and what they are expected to execute next.

All times are in nanoseconds of the controller's clock.
"""

from typing import Final

from msgspec import Struct

from clockwork.units import MILLISECOND, SECOND, Nanos

INFER: Final = "infer"
LOAD: Final = "load"
EVICT: Final = "evict"

KINDS: Final = (INFER, LOAD, EVICT)
"""The kinds of action in a timeline."""

MAX_IDS: Final = 16
"""Largest number of request ids that a timeline contains for one action."""

DEFAULT_LIMIT: Final = 200
"""Number of ended actions in a timeline if the client sets no limit."""

MAX_LIMIT: Final = 1000
"""Largest number of ended actions in one timeline."""

DEFAULT_PAST: Final[Nanos] = 1 * SECOND
"""Age of the oldest action in a timeline if the client sets no other age."""

DEFAULT_HORIZON: Final[Nanos] = 100 * MILLISECOND
"""Time after the present that a timeline covers if the client sets no other time."""

MAX_SPAN: Final[Nanos] = 3600 * SECOND
"""Limit of the time before and after the present that a client may request."""


class TimelineRequest(Struct, frozen=True, array_like=True, tag=40):
    """Request the actions that have ended, and the actions that are expected to begin soon.

    - ``after``: number of the last ended action that the client has; 0 if it has none
    - ``past``: time before now. Actions whose results arrived earlier are left out.
    - ``horizon``: time after now. Planned work that begins later is left out. If the horizon is 0, the response
      contains only ended actions.
    - ``limit``: largest number of ended actions in the response
    """

    id: int
    after: int = 0
    past: Nanos = DEFAULT_PAST
    horizon: Nanos = DEFAULT_HORIZON
    limit: int = DEFAULT_LIMIT


class TimelineAction(Struct, frozen=True, array_like=True, gc=False):
    """An action of a device: an Infer, a load of weights, an eviction, or a batch that the scheduler plans.

    - ``number``: position among all ended actions, from 1; 0 if the action has not ended
    - ``id``: the action's id; 0 if the work is planned and was not sent
    - ``device``: the device's label
    - ``kind``: one of `KINDS`
    - ``model``, ``version``: the name and the version that clients use
    - ``rows``, ``count``: number of rows and of requests in the batch; 0 for loads and evictions
    - ``requests``: the ids of the first `MAX_IDS` requests that have an id
    - ``sent``, ``arrived``: when the controller sent the action and received its result; None if it did not
    - ``earliest``, ``latest``: the window in which the action may start; None if there is no limit
    - ``planned_begin``, ``planned_end``: the predicted execution; None if there is no prediction
    - ``begin``, ``end``: the actual execution; None if the device did not execute the action
    - ``input``, ``output``: begin and end of the copy of inputs and outputs; None if they were not copied
    - ``late``: number of requests that missed their deadline, or will miss it according to the prediction
    - ``status``: name of the result's status; empty if there is no result
    - ``error``: why the action failed; empty if it did not
    """

    number: int
    id: int
    device: str
    kind: str
    model: str
    version: str = ""
    rows: int = 0
    count: int = 0
    requests: tuple[str, ...] = ()
    sent: Nanos | None = None
    arrived: Nanos | None = None
    earliest: Nanos | None = None
    latest: Nanos | None = None
    planned_begin: Nanos | None = None
    planned_end: Nanos | None = None
    begin: Nanos | None = None
    end: Nanos | None = None
    input: tuple[Nanos, Nanos] | None = None
    output: tuple[Nanos, Nanos] | None = None
    late: int = 0
    status: str = ""
    error: str = ""


class Timeline(Struct, frozen=True, array_like=True):
    """A window of the timeline of all devices.

    - ``now``: the present time
    - ``last``: number of the last ended action in ``ended``, which is the next ``after``
    - ``latest``: number of the last action that has ended. If ``latest`` exceeds ``last``, more actions have ended.
    - ``dropped``: number of actions after ``after`` that are no longer recorded
    - ``pending``: number of clients' requests that wait for their responses
    - ``at_risk``: number of requests in ``upcoming`` that will miss their deadline according to the prediction
    - ``devices``: the labels of all devices in service
    - ``ended``: the actions that have ended, in the order in which their results arrived
    - ``upcoming``: the actions that were sent, and then the work that is planned, in order for each device
    """

    now: Nanos
    last: int = 0
    latest: int = 0
    dropped: int = 0
    pending: int = 0
    at_risk: int = 0
    devices: tuple[str, ...] = ()
    ended: tuple[TimelineAction, ...] = ()
    upcoming: tuple[TimelineAction, ...] = ()


class TimelineResponse(Struct, frozen=True, array_like=True, tag=41):
    """The response to TimelineRequest. ``timeline`` is None if the request is wrong or no actions are recorded."""

    id: int
    status: int
    message: str
    timeline: Timeline | None = None
