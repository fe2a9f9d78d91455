"""Decides which promises the server has broken.

A promise is broken if an admitted request does not succeed. There are two exceptions:

- the client is at fault, because the device refuses the request's bytes or the client cancels the request
- the operator ends the server, and the drain reaches its time limit before the promised time
"""

from enum import Enum
from typing import Final

from clockwork.messages.status import Status
from clockwork.units import Nanos

FAULTS_OF_CLIENTS: Final = frozenset(
    {Status.INVALID_REQUEST, Status.INVALID_INPUT, Status.INVALID_BATCH_SIZE, Status.CANCELLED}
)
"""Statuses of responses for which the client is at fault."""


class Promise(Enum):
    """The outcome of a promise."""

    NONE = "none"  #: there was no promise, or an exception applies
    KEPT = "kept"
    BROKEN = "broken"


def outcome(now: Nanos, promised: Nanos | None, status: int) -> Promise:
    """Return the outcome of a promise for a request that is answered ``now`` with ``status``."""
    if promised is None or status in FAULTS_OF_CLIENTS:
        return Promise.NONE
    if status == Status.SHUTTING_DOWN and now < promised:
        return Promise.NONE
    return Promise.KEPT if status == Status.SUCCESS else Promise.BROKEN
