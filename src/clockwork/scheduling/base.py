"""The plug-in interface of schedulers.

A scheduler begins when start-up is over: every model is loaded and measured, and no model is added any more. It hears
of requests and results, and answers with commands. Rules:

- It is a machine: no clock, no I/O, no thread, no global randomness. ``now`` comes with every call and never runs back.
- Actions are made by `GPUState.load_weights`, `evict_weights` and `infer`, which keep the picture of the device's
  memory; the call that makes an action returns what they return.
- `result` tells of actions that ended, also of an EvictWeights that an operator asked for.
- Only `GPUState` says where weights are. An operator may evict them at any time, also while requests wait for them, and
  a LoadWeights may fail: the picture changes before `evicted` or `result` is called.
- A request is over when the scheduler answers it (`Answer`), when an Infer that contains it succeeds (the controller
  answers, before it tells the scheduler), or when `cancel` says so. A failed Infer leaves its requests with the
  scheduler: to answer, or to try again.
- A request without a client (``client_id`` -1) is a check of a batch by the controller: like any other, in idle time.
- Whatever it forgets, the controller answers at the deadline. Whatever it raises, the controller reports, and answers
  the requests that the call was about.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import Result
from clockwork.state import ClockworkState, GPUState, PendingRequest, WorkerState
from clockwork.units import Nanos


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(ABC):
    """What every policy implements; only `infer` and `result` must be."""

    name: ClassVar[str] = ""
    """What `--scheduler` calls it, if it is built in."""

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Serving begins. ``state`` stays up to date for as long as the scheduler lives; keep it."""
        self.state = state
        return []

    @abstractmethod
    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """A request has arrived. Its model is known, its inputs fit, and its deadline has not passed."""

    @abstractmethod
    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        """An action has ended. If it was an Infer and succeeded, its requests have been answered."""

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """The request is over: its client went away, or its deadline passed. Do not answer it."""
        return []

    def explain(self, now: Nanos, request: PendingRequest) -> str:
        """Why a request that was promised an answer has none at its deadline; empty if that is not known."""
        return ""

    def evicted(self, now: Nanos, model: str, gpus: Sequence[GPUState]) -> list[Answer]:
        """An operator has evicted the model's weights from these devices. The results of the actions come later."""
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """A worker has come, or come back, and holds the models; it is in ``state.workers`` from now on."""
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """A worker is gone, with all actions outstanding there; it is no longer in ``state.workers``."""
        return []

    def wake(self, now: Nanos) -> list[Answer]:
        """The moment that `next_wakeup` named has come."""
        return []

    def next_wakeup(self) -> Nanos | None:
        """When to call `wake`; None: never. Asked after each call of another method."""
        return None
