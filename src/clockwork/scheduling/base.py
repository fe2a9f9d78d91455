"""The interface of schedulers.

A scheduler starts when start-up is over: every model is loaded and measured, and no model is added any more. The
controller calls it with requests and results. It makes actions, and returns answers. Rules:

- It is a machine: no clock, no I/O, no thread, no global randomness. ``now`` comes with every call and never decreases.
- Only `GPUState` makes actions, with `load_weights`, `evict_weights` and `infer`. Each call changes the controller's
  picture of the device and queues the action; the controller sends all queued actions, in order, when the scheduler's
  method has returned. The method returns only answers.
- `result` is called for every action that has ended, including an EvictWeights that an operator requested.
- Only `GPUState` knows where weights are. An operator may evict them at any time, even while requests wait for them,
  and a LoadWeights may fail: the picture changes before `evicted` or `result` is called.
- A request is over when the scheduler answers it (`Answer`), when an Infer that contains it succeeds (the controller
  answers it before it calls `result`), or when `cancel` is called. The requests of a failed Infer are not over: the
  scheduler answers them or tries again.
- A request with the ``client_id`` -1 is a check of a batch by the controller. It is treated like any other request.
- The controller answers a request that the scheduler has not answered by its deadline. It reports an exception of the
  scheduler, and answers the requests that the call was about.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction
from clockwork.messages.commands import Answer
from clockwork.messages.results import Result
from clockwork.state import ClockworkState, GPUState, PendingRequest, WorkerState
from clockwork.units import Nanos


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(ABC):
    """Base class of schedulers; only `infer` and `result` must be defined."""

    name: ClassVar[str] = ""
    """The value of ``--scheduler`` for a built-in scheduler."""

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Begin to serve. ``state`` is kept, and the controller keeps it up to date."""
        self.state = state
        return []

    @abstractmethod
    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Handle a new request. Its model is known, its inputs fit the model, and its deadline has not passed."""

    @abstractmethod
    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Handle the end of an action. If it was an Infer and succeeded, its requests have been answered."""

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Forget a request whose client went away or whose deadline passed; it must not be answered."""
        return []

    def explain(self, now: Nanos, request: PendingRequest) -> str:
        """Return why an admitted request has no answer at its deadline; an empty text if the reason is unknown."""
        return ""

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """Handle an operator's eviction of a model from these devices. `result` is called later for its actions."""
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Handle a worker that has connected and holds the models; it is in ``state.workers`` from now on."""
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Handle the loss of a worker and of all its actions; it is no longer in ``state.workers``."""
        return []

    def wake(self, now: Nanos) -> list[Answer]:
        """Act at the time that `next_wakeup` returned."""
        return []

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `wake`, or None for never. The controller asks after each call of another method."""
        return None
