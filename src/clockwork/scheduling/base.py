"""Defines the interface of schedulers.

A scheduler starts when the controller's start-up is over. By then, every model is loaded and measured. The controller
calls the scheduler with requests and results. The scheduler makes actions and returns answers. The rules for a
scheduler are:

- A scheduler uses no clock, no I/O, no thread and no global randomness. ``now`` is an argument of every call, and never
  decreases.
- A scheduler makes actions with three methods of `GPUState`: `load_weights`, `evict_weights` and `infer`. Each call
  updates the `GPUState` and queues the action. When the scheduler's method has returned, the controller sends all
  queued actions in their order. The method itself returns only answers.
- `result` is called for every action that has ended, including an EvictWeights that an operator requested.
- `GPUState` knows which weights are on the device. An operator may evict weights at any time, even while requests wait
  for these weights. A LoadWeights may fail. In both cases, the `GPUState` is updated before `evicted` or `result` is
  called.
- A request ends in one of three ways: the scheduler answers it (`Answer`), an Infer that contains it succeeds, or
  `cancel` is called. After a successful Infer, the controller answers the requests before it calls `result`. The
  requests of a failed Infer have not ended. The scheduler must answer these requests or try again.
- If the ``client_id`` of a request is -1, the controller itself made the request, to check a batch or to measure a
  model. The scheduler treats it like any other request.
- Models are added and removed while serving only if the scheduler defines `model_added` and `model_removed`.
- If the scheduler has not answered a request by the request's deadline, the controller answers the request. If the
  scheduler raises an exception, the controller reports the exception and answers the requests that the scheduler was
  called for.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction
from clockwork.messages.commands import Answer
from clockwork.messages.explanation import WhatIf
from clockwork.messages.results import Result
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, PlannedWork, WorkerState
from clockwork.units import Nanos


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(ABC):
    """Base class of schedulers. Only `infer` and `result` must be defined."""

    name: ClassVar[str] = ""
    """Name of a built-in scheduler for the option ``--scheduler``. Other schedulers leave the name empty."""

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Begin to serve. The scheduler may keep a reference to ``state``, which the controller keeps up to date."""
        self.state = state
        return []

    @abstractmethod
    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Handle a new request. The model is known, the inputs fit the model, and the deadline has not passed."""

    @abstractmethod
    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Handle the end of an action. If the action is an Infer that succeeded, its requests have been answered."""

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Forget a request, because its client has cancelled it or disconnected, or because its deadline has passed.

        The request must not be answered.
        """
        return []

    def explain(self, now: Nanos, request: PendingRequest) -> str:
        """Return why an admitted request was not answered by its deadline.

        Return an empty text if the reason is unknown.
        """
        return ""

    def counterfactuals(self, request: PendingRequest) -> tuple[WhatIf, ...]:
        """Return what would have happened to an answered request under other circumstances.

        Use the state of the decision, which ``request.verdict`` contains. An empty result means that the answer is
        unknown.
        """
        return ()

    def planned(self, now: Nanos, until: Nanos, limit: int) -> tuple[PlannedWork, ...]:
        """Return the batches that are planned to begin before ``until`` and have not been sent, in order per device.

        For each device, return at most ``limit`` batches. An empty result means that the scheduler plans nothing.
        """
        return ()

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """Handle an operator's eviction of a model from these devices.

        `result` is later called for the EvictWeights actions.
        """
        return []

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Handle a model that was added to ``state.models``, or whose profiles have changed.

        The model has a profile for at least one kind of device. The profile of a model that was not measured contains
        upper bounds instead of measured times.
        """
        return []

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Forget a model that was removed from ``state.models``. No request for it is pending.

        The controller evicts its weights from all devices. `result` is still called for its outstanding actions.
        """
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Handle a worker that has connected and has all models. From now on, the worker is in ``state.workers``."""
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Handle the loss of a worker and of all its actions. The worker is no longer in ``state.workers``."""
        return []

    def wake(self, now: Nanos) -> list[Answer]:
        """Do what is due. The controller calls this method at the time that `next_wakeup` has returned."""
        return []

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `wake`, or None for never. The controller calls this method after each other method."""
        return None


def changes_models(scheduler: Scheduler) -> bool:
    """Return whether the scheduler supports adding and removing models while serving."""
    kind = type(scheduler)
    return kind.model_added is not Scheduler.model_added and kind.model_removed is not Scheduler.model_removed
