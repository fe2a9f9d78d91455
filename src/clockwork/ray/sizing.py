"""Decides how many workers of a fleet to start or to end. Pure functions, which need no Ray.

The controller damps the wanted number of devices (`controller.device_need`), so these functions need no memory.
"""

from math import ceil
from typing import NamedTuple

from msgspec import Struct


class Limits(NamedTuple):
    """The smallest and the largest number of workers of a fleet."""

    least: int
    most: int


class Workers(NamedTuple):
    """The workers of a fleet.

    - ``present``: number of workers that run, start, or wait for a node
    - ``ending``: number of other workers, which finish their work
    """

    present: int
    ending: int = 0


class Sizing(Struct, frozen=True, kw_only=True):
    """The size of a fleet that follows its load.

    - ``least``, ``most``: limits of the number of workers
    - ``devices``: number of devices that the controller wants; None until the controller has reported a number
    - ``workers``: number of workers for these devices, within the limits; None if ``devices`` is None
    - ``why``: the controller's reason for ``devices``, as a sentence
    """

    least: int
    most: int
    devices: int | None = None
    workers: int | None = None
    why: str = ""


def target(devices: int, per_worker: int, limits: Limits) -> int:
    """Return the number of workers for this number of wanted devices."""
    return min(max(ceil(devices / per_worker), limits.least), limits.most)


def change(devices: int | None, per_worker: int, workers: Workers, limits: Limits, *, may_end: bool) -> int:
    """Return the number of workers to start, or the negative number of workers to end.

    Workers that finish their work still occupy their nodes, so they count for the upper limit. While ``may_end`` is
    false, or while workers finish their work, no further worker ends.

    Args:
        devices: number of wanted devices. If it is None or 0, the controller knows no device yet, and only the limits
            decide.
        per_worker: number of devices of each worker.
        workers: the workers of the fleet.
        limits: limits of the number of workers.
        may_end: whether the wanted number is reliable enough to end workers.
    """
    present = workers.present
    wanted = target(devices, per_worker, limits) if devices else min(max(present, limits.least), limits.most)
    if wanted > present:
        return max(0, min(wanted, limits.most - workers.ending) - present)
    return wanted - present if may_end and not workers.ending else 0
