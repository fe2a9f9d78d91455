"""A thread per lane: waits for the moment, starts the task, and is its own messenger.

Rules of the file: the core is touched under one lock only, never for longer than it takes to decide; whatever blocks
happens outside it. A thread carries out the tasks of its own lane and of no other, so a start is never handed from one
thread to another.

Theory of operation. Each thread loops: poll its lane; if there is a task, run it and tell the core that it is over; if
there is none, sleep until the lane's next moment. Whoever tells the core something, a lane or the network, then wakes
those lanes whose next moment has moved to before the one that they sleep to. An EXEC thread that has time assembles
the next batch before it is due; while it executes, an INPUT thread does that for it. It does not trust the last stretch
of its sleep to the operating system: it wakes early and watches the clock, giving way to other threads after every
look. What an Infer puts out is shared among its requests by whoever takes the results.

A thread that breaks is a bug, or has lost its device; it tells ``on_crash``, for a worker without a lane is of no use.
"""

import asyncio
import logging
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import Final

from clockwork.clock import Clock
from clockwork.errors import DeviceLostError
from clockwork.host.affinity import CorePlan, pin
from clockwork.host.process_tuning import lower_priority, shorten_time_slice
from clockwork.host.task_runner import PreparedTask, ResultToSend, TaskRunner
from clockwork.messages.actions import Action
from clockwork.units import MICROSECOND, SECOND, Nanos
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import (
    ActionReceived,
    ControllerLost,
    Event,
    LaneKind,
    Leave,
    ResultCommand,
    StartTask,
    TaskFinished,
)

WATCH: Final[Nanos] = 200 * MICROSECOND
"""How long before its moment an EXEC thread wakes: a timed wait was late by 80-130 us (Linux 6.18 in a virtual machine,
`threading.Condition`, 400 waits)."""

log = logging.getLogger("clockwork.worker")


class _Shared:
    """What the threads have in common; all that changes is touched under ``lock``."""

    def __init__(
        self,
        core: WorkerCore,
        runner: TaskRunner,
        clock: Clock,
        on_answers: Callable[[], None],
        on_crash: Callable[[Exception], None],
    ) -> None:
        self.core = core
        self.runner = runner
        self.clock = clock
        self.lock = Lock()
        self.stopping = False
        self.answers: list[ResultCommand] = []
        self.threads: list[_LaneThread] = []
        self.inputs: list[_InputThread] = []  #: by device
        self.on_crash = on_crash
        self._on_answers = on_answers

    def tell(self, event: Event) -> None:
        """Tell the core, and wake whom that concerns."""
        self.keep(self.core.apply(event))
        self._wake_moved()

    def decided(self, answers: Sequence[ResultCommand]) -> None:
        """The core has answered actions by itself: others may have waited for them."""
        if answers:
            self.keep(answers)
            self._wake_moved()

    def keep(self, answers: Sequence[ResultCommand]) -> None:
        """Keep answers for whoever takes them, who is told of the first."""
        if answers:
            if not self.answers:
                self._on_answers()
            self.answers.extend(answers)

    def broke(self, name: str, error: Exception) -> None:
        """A thread cannot go on: that is a bug, or its device is lost."""
        if not isinstance(error, DeviceLostError):
            log.error("thread %s broke", name, exc_info=error)
        self.on_crash(error)

    def _wake_moved(self) -> None:
        for thread in self.threads:
            thread.wake_if_moved()
        for inputs in self.inputs:
            inputs.wake_if_due()


class Lanes:
    """The threads of a worker's lanes, and the lock that guards its core. Its methods may be called by any thread."""

    def __init__(
        self,
        core: WorkerCore,
        runner: TaskRunner,
        clock: Clock,
        on_answers: Callable[[], None],
        on_crash: Callable[[Exception], None],
        cores: CorePlan | None = None,
    ) -> None:
        """``on_answers``: there is something for `take_results`.

        Both are called by any thread, and must neither block nor call back.
        """
        self.core = core
        self._shared = _Shared(core, runner, clock, on_answers, on_crash)
        self._shared.threads = [_LaneThread(self._shared, gpu, kind, cores) for gpu, kind in core.lanes]
        gpus = sum(kind is LaneKind.EXEC for _, kind in core.lanes)
        self._shared.inputs = [_InputThread(self._shared, gpu, cores) for gpu in range(gpus)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._all():
            thread.start()

    def stop(self) -> None:
        """Start no more tasks, wait for those that run, and end the threads."""
        with self._shared.lock:
            self._shared.stopping = True
            for thread in self._all():
                thread.condition.notify_all()
        for thread in self._all():
            thread.join()

    def _all(self) -> "list[_LaneThread | _InputThread]":
        return [*self._shared.threads, *self._shared.inputs]

    async def end(self) -> None:
        """`stop`, without holding up the event loop."""
        await asyncio.to_thread(self.stop)

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """The controller has sent an action; returns when to call `expire` next."""
        with self._shared.lock:
            self._shared.tell(ActionReceived(action, payloads))
            return self._shared.core.next_expiry()

    def expire(self) -> Nanos | None:
        """Answer what is late, also behind running tasks; returns when to call this next."""
        with self._shared.lock:
            self._shared.decided(self._shared.core.expire(self._shared.clock.now()))
            return self._shared.core.next_expiry()

    def controller_lost(self) -> None:
        """There is nobody to send results to; those not taken yet are dropped."""
        with self._shared.lock:
            self._shared.tell(ControllerLost())
            self._shared.answers.clear()

    def leave(self) -> None:
        """Begin nothing more; what waits and what comes is refused, what runs goes on."""
        with self._shared.lock:
            self._shared.tell(Leave())

    def owes_results(self) -> bool:
        """Whether something runs whose result the controller waits for."""
        with self._shared.lock:
            return self._shared.core.owes_results

    def take_results(self) -> list[ResultToSend]:
        """What the actions have come to since this was last called, in order."""
        with self._shared.lock:
            answers, self._shared.answers = self._shared.answers, []
        try:
            return [self._shared.runner.finish(answer) for answer in answers]
        except DeviceLostError as error:
            self._shared.broke("which takes results", error)
            return []


class _LaneThread(Thread):
    """One lane's thread."""

    def __init__(self, shared: _Shared, gpu: int | None, kind: LaneKind, plan: CorePlan | None) -> None:
        super().__init__(name=f"clockwork-{kind}{'' if gpu is None else gpu}")
        self.condition = Condition(shared.lock)
        self._shared = shared
        self._gpu = gpu
        self._kind = kind
        self._cores = _cores(plan, gpu, kind)
        self._gives_way = kind is not LaneKind.EXEC and plan is not None and all(len(its) == 1 for its in plan.exec)
        self._watch = WATCH if kind is LaneKind.EXEC else 0
        self._asleep = False
        self._until: Nanos | None = None  #: what it sleeps to
        self._prepared: PreparedTask | None = None

    def run(self) -> None:
        """Until the lanes stop."""
        try:
            if self._gives_way:
                lower_priority()
            elif self._kind is LaneKind.EXEC:
                shorten_time_slice()
            pin(self._cores)
        except OSError as error:
            log.warning("thread %s cannot be pinned to cores %s: %s", self.name, self._cores, error)
        try:
            finished = None
            while not self._shared.stopping:
                finished = self._turn(finished)
            if finished is not None:
                with self._shared.lock:
                    self._shared.tell(finished)
        except Exception as error:  # noqa: BLE001 - logged there
            self._shared.broke(self.name, error)

    def wake_if_moved(self) -> None:
        """Wake the thread if its lane's next moment is before the one that it sleeps to. Called under the lock."""
        if self._asleep:
            moment = self._shared.core.next_wakeup_of(self._gpu, self._kind)
            if moment is not None and (self._until is None or moment < self._until):
                self._asleep = False
                self.condition.notify()

    def _turn(self, finished: TaskFinished | None) -> TaskFinished | None:
        """Tell how the last task ended, and then one task, which is returned, or one batch prepared, or one sleep."""
        shared = self._shared
        upcoming = prepared = None
        with shared.lock:
            if finished is not None:
                shared.tell(finished)
            if shared.stopping:
                return None
            task = self._poll()
            if task is not None:
                prepared = self._take_prepared(task)
            else:
                upcoming = self._unprepared()
                if upcoming is None:
                    self._sleep()
        if task is not None:
            return shared.runner.run(task, prepared)
        if upcoming is not None:
            self._prepared = shared.runner.prepare(upcoming)
        else:
            self._watch_clock()
        return None

    def _poll(self) -> StartTask | None:
        """What to start now."""
        task = None
        answers = []
        for command in self._shared.core.poll(self._shared.clock.now(), self._gpu, self._kind):
            if isinstance(command, StartTask):
                task = command
            else:
                answers.append(command)
        self._shared.decided(answers)
        return task

    def _take_prepared(self, task: StartTask) -> PreparedTask | None:
        """The task's batch, if that has been assembled; and have the next one assembled meanwhile."""
        prepared, self._prepared = self._prepared, None
        if self._kind is LaneKind.EXEC and self._gpu is not None:
            inputs = self._shared.inputs[self._gpu]
            prepared = inputs.take(task) or prepared
            inputs.wake_if_due()
        return prepared

    def _unprepared(self) -> StartTask | None:
        """The task that comes next, if there is something to prepare for it."""
        if self._kind is not LaneKind.EXEC or self._gpu is None:
            return None
        task = self._shared.core.upcoming(self._gpu)
        if task is None or (self._prepared is not None and self._prepared.is_of(task)):
            return None
        return task

    def _sleep(self) -> None:
        """Give up the lock until shortly before the lane's next moment, or until that moves."""
        self._asleep = True
        self._until = self._shared.core.next_wakeup_of(self._gpu, self._kind)
        if self._until is None:
            self.condition.wait()
        else:
            left = self._until - self._watch - self._shared.clock.now()
            if left > 0:
                self.condition.wait(left / SECOND)

    def _watch_clock(self) -> None:
        """Let the last stretch of a sleep pass, unless it is over already or somebody wakes the thread."""
        until = self._until
        while self._asleep and self._watch and until is not None and self._shared.clock.now() < until:
            if until - self._shared.clock.now() > self._watch:
                break  # woken for no reason, far too early
            select.select((), (), (), 0)  # gives way: the interpreter's lock is free meanwhile
        self._asleep = False


class _InputThread(Thread):
    """Assembles a device's next batch while the one before is executed; where nothing is, the EXEC thread does.

    The input of a single request is not copied, and so not worth a thread, unless it has to be brought to the device.
    """

    def __init__(self, shared: _Shared, gpu: int, plan: CorePlan | None) -> None:
        super().__init__(name=f"clockwork-input{gpu}")
        self.condition = Condition(shared.lock)
        self._shared = shared
        self._gpu = gpu
        self._cores = plan.others if plan is not None else ()
        self._asleep = False
        self._task: StartTask | None = None  #: what it is at
        self._prepared: PreparedTask | None = None

    def run(self) -> None:
        """Until the lanes stop."""
        with suppress(OSError):  # the EXEC thread has said it
            pin(self._cores)
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - logged there
            self._shared.broke(self.name, error)

    def wake_if_due(self) -> None:
        """Wake the thread if there is something to assemble. Called under the lock."""
        if self._asleep and self._due() is not None:
            self._asleep = False
            self.condition.notify_all()

    def take(self, task: StartTask) -> PreparedTask | None:
        """The batch of a task that starts, if it was assembled here. Called under the lock, which may be given up."""
        while self._task is not None and self._task.action is task.action and not self._shared.stopping:
            self.condition.wait()
        prepared, self._prepared = self._prepared, None
        return prepared if prepared is not None and prepared.is_of(task) else None

    def _turn(self) -> bool:
        with self._shared.lock:
            while (task := self._due()) is None and not self._shared.stopping:
                self._asleep = True
                self.condition.wait()
            self._asleep = False
            if task is None or self._shared.stopping:
                return False
            self._task = task
        prepared = self._shared.runner.prepare(task)
        with self._shared.lock:
            self._task = None
            self._prepared = prepared
            self.condition.notify_all()
        return True

    def _due(self) -> StartTask | None:
        core = self._shared.core
        if not core.executing(self._gpu):
            return None
        task = core.upcoming(self._gpu)
        if (
            task is None
            or not self._shared.runner.worth_preparing(task)
            or (self._prepared is not None and self._prepared.is_of(task))
        ):
            return None
        return task


def _cores(plan: CorePlan | None, gpu: int | None, kind: LaneKind) -> Sequence[int]:
    if plan is None:
        return ()
    if kind is LaneKind.EXEC and gpu is not None:
        return plan.exec[gpu]
    return plan.load if kind is LaneKind.LOAD else plan.others
