"""Which offer is taken, and which requests go together: the small decisions of placing, without any state."""

from collections.abc import Sequence
from itertools import islice

from clockwork.scheduling.clockwork.plan import Offer
from clockwork.state import PendingRequest


def better(one: Offer | None, other: Offer | None) -> Offer | None:
    """The offer to take: an idle device first, then the better use of a device, then the sooner end."""
    if one is None or other is None:
        return one or other
    if one.at_once != other.at_once:
        return one if one.at_once else other
    if one.efficiency != other.efficiency:
        return one if one.efficiency > other.efficiency else other
    return one if one.end <= other.end else other


def alike(requests: Sequence[PendingRequest], place: int) -> int:
    """How many from ``place`` on have the same deadline."""
    end = place + 1
    while end < len(requests) and requests[end].deadline == requests[place].deadline:
        end += 1
    return end - place


def fitting(requests: Sequence[PendingRequest], place: int, room: int) -> list[PendingRequest]:
    """As many from ``place`` on as fit."""
    taken, rows = list[PendingRequest](), 0
    for request in islice(requests, place, place + room):
        rows += request.batch_size
        if rows > room or (taken and request.model.unbatched):
            break
        taken.append(request)
    return taken
