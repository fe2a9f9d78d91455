"""Which promises the server has broken: only what is its own failure counts.

A request that was admitted and not answered with success breaks a promise, except where

- the client is at fault: the device refuses the request's bytes, or the client cancelled it;
- the operator ended the server, by its drain limit, before the promised moment.
"""

from enum import Enum
from typing import Final

from clockwork.messages.status import Status
from clockwork.units import Nanos

FAULTS_OF_CLIENTS: Final = frozenset(
    {Status.INVALID_REQUEST, Status.INVALID_INPUT, Status.INVALID_BATCH_SIZE, Status.CANCELLED}
)
"""Statuses that say what is wrong with the request, wherever that was found."""


class Promise(Enum):
    """What became of a promise."""

    NONE = "none"  #: there was none, or nobody is held to it
    KEPT = "kept"
    BROKEN = "broken"


def outcome(now: Nanos, promised: Nanos | None, status: int) -> Promise:
    """What becomes of a promise for the moment ``promised`` when its request is answered with ``status``."""
    if promised is None or status in FAULTS_OF_CLIENTS:
        return Promise.NONE
    if status == Status.SHUTTING_DOWN and now < promised:
        return Promise.NONE
    return Promise.KEPT if status == Status.SUCCESS else Promise.BROKEN
