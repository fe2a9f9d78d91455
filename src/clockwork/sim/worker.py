"""Simulates the host of a worker, with a `PacedWorker` on the loop.

This module makes no decisions. The worker sees only its own clock, which may have an offset and a drift.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from clockwork.messages.results import InferOutput, InferResult, Result, Timing
from clockwork.paced.durations import DurationModel
from clockwork.paced.models import PacedModel
from clockwork.paced.worker import PacedWorker
from clockwork.sim.loop import Loop
from clockwork.sim.timer import Timer
from clockwork.units import Bytes, Nanos, Pages
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import ActionReceived, Event, ResultCommand, SendOutputs, StartTask


class SimWorker:
    """A worker process. A restarted worker is a new object."""

    def __init__(
        self,
        loop: Loop,
        name: str,
        kind: str,
        pages: Pages,
        page_size: Bytes,
        models: Mapping[str, PacedModel],
        durations: Sequence[DurationModel],
        send: Callable[[Result], None],
        started: Callable[[str, StartTask, Nanos], None],
        offset: Nanos = 0,
        drift_ppm: float = 0.0,
    ) -> None:
        """The keys of ``models`` are paths. ``durations`` has an entry for each device.

        ``send`` is called with each result. ``started`` is called for each task, with the time on the worker's clock.
        """
        self.name = name
        self.core = WorkerCore(page_size, [(kind, pages)] * len(durations))
        self.worker = PacedWorker(self.core, models, durations, partial(started, name))
        self.alive = True
        self._loop = loop
        self._send = send
        self._offset = offset
        self._drift = drift_ppm / 1e6
        self._timer = Timer(loop, self._next_wakeup, self._wake)

    def clock(self) -> Nanos:
        """Return the time on the worker's clock."""
        now = self._loop.now
        return now + self._offset + int(now * self._drift) if self._drift else now + self._offset

    def receive(self, action_received: ActionReceived) -> None:
        """Pass an action to the worker. The link calls this method when the action arrives."""
        if self.alive:
            self.feed(action_received)

    def feed(self, event: Event) -> None:
        """Pass an event to the worker."""
        self._answer(self.worker.handle(self.clock(), event))
        self._timer.arm()

    def _next_wakeup(self) -> Nanos | None:
        if not self.alive:
            return None
        moment = self.worker.next_wakeup()
        if moment is None:
            return None
        if not self._drift:
            return moment - self._offset
        wait = moment - self.clock()
        return self._loop.now + (max(1, int(wait / (1 + self._drift)) + 1) if wait > 0 else 0)

    def _wake(self) -> None:
        self._answer(self.worker.wake(self.clock()))

    def _answer(self, answers: list[ResultCommand]) -> None:
        for answer in answers:
            self._send(_without_outputs(answer) if isinstance(answer, SendOutputs) else answer.result)


def _without_outputs(sent: SendOutputs) -> InferResult:
    """Return the result without outputs, because a simulation has no outputs."""
    outputs = tuple([InferOutput(share.request_id, ()) for share in sent.action.inputs])
    end = sent.exec.end
    return InferResult(sent.action.id, outputs, sent.copy_input, sent.exec, Timing(end, end, 0))
