"""Schedulers decide which device executes which action, and when.

This package is the public API for authors of schedulers. A scheduler is a subclass of `Scheduler`. The module of
`Scheduler` contains the rules, and `clockwork.testing.check_scheduler` tests them. The policies of Clockwork do not
import each other. `registry` contains their names.
"""

from clockwork.messages.actions import DeviceAction, EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult, EvictWeightsResult, InferResult, LoadWeightsResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import batch_from, failed_answer, load_evicting_lru, rows_of
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, PlannedWork, Residency, WorkerState
from clockwork.units import FOREVER, MICROSECOND, MILLISECOND, SECOND, Nanos

__all__ = [
    "FOREVER",
    "MICROSECOND",
    "MILLISECOND",
    "SECOND",
    "Answer",
    "ClockworkState",
    "DeviceAction",
    "ErrorResult",
    "EvictWeights",
    "EvictWeightsResult",
    "GPUState",
    "Infer",
    "InferResult",
    "LoadWeights",
    "LoadWeightsResult",
    "ModelState",
    "Nanos",
    "PendingRequest",
    "PlannedWork",
    "Residency",
    "Result",
    "Scheduler",
    "Status",
    "Timing",
    "WorkerState",
    "batch_from",
    "failed_answer",
    "load_evicting_lru",
    "rows_of",
]
