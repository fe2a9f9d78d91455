"""Defines work that a scheduler plans for a device and has not sent yet."""

from collections.abc import Sequence
from typing import NamedTuple

from clockwork.state.gpu import GPUState
from clockwork.state.request import PendingRequest
from clockwork.units import Nanos


class PlannedWork(NamedTuple):
    """A planned batch of requests for one model. ``begin`` and ``end`` are the planned execution on the device."""

    gpu: GPUState
    requests: Sequence[PendingRequest]
    begin: Nanos
    end: Nanos
