"""Schedulers: which action goes to which device, and when.

This is the public API for authors of schedulers. A scheduler derives from `Scheduler`, whose module has the rules;
`clockwork.testing.check_scheduler` tests it. The policies of Clockwork do not import each other; `registry` has their
names.
"""

from clockwork.messages.actions import DeviceAction, EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult, EvictWeightsResult, InferResult, LoadWeightsResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import batch_from, failed_answer, load_evicting_lru, rows_of
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, Residency, WorkerState
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
