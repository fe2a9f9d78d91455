"""Runs each lane of a worker in its own thread.

Threads use the worker's core (`WorkerCore`) under one lock. A thread holds the lock only while the core decides, and
never during an operation that blocks. A thread executes only the tasks of its own lane, so no task has to wait until a
second thread wakes up.

Theory of operation. Each thread polls its lane in a loop. If there is a task, the thread executes it and reports its
end to the core. Otherwise, the thread sleeps until the lane's next wake-up time. An event may move a lane's wake-up
time to an earlier time while the lane's thread sleeps. After each event, the thread that has passed the event to the
core wakes the threads of such lanes. Events come from the lanes' threads and from the network's thread. An EXEC thread
with spare time assembles the next batch in advance. While the EXEC thread executes a batch, an INPUT thread assembles
the next one. The operating system wakes threads late. So an EXEC thread wakes early and then reads the clock repeatedly
until the wake-up time. After each reading, the thread yields to other threads. The outputs of an Infer are split among
its requests by the thread that takes the results.

If a thread fails, there is a bug or the device is lost. The thread then calls ``on_crash``, because a worker cannot
work without one of its lanes.
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
from clockwork.host.process_tuning import keep_core, lower_priority, shorten_time_slice
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
"""An EXEC thread wakes this long before its wake-up time.

A timed wait of `threading.Condition` was late by 80 to 130 us (400 waits with Linux 6.18 in a virtual machine).
"""

log = logging.getLogger("clockwork.worker")


class _SharedState:
    """The state that the threads share. A thread must hold ``lock`` while it uses a part that can change."""

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

    def apply(self, event: Event) -> None:
        """Pass an event to the core, and wake the threads whose wake-up time is now earlier."""
        self.keep(self.core.apply(event))
        self._wake_moved()

    def keep_and_wake(self, answers: Sequence[ResultCommand]) -> None:
        """Store results of actions that were not executed. Wake the threads whose wake-up time is now earlier."""
        if answers:
            self.keep(answers)
            self._wake_moved()

    def keep(self, answers: Sequence[ResultCommand]) -> None:
        """Store results until they are taken. If no result was stored before, call ``on_answers``."""
        if answers:
            if not self.answers:
                self._on_answers()
            self.answers.extend(answers)

    def report_failure(self, name: str, error: Exception) -> None:
        """Report that a thread cannot continue because of a bug or a lost device."""
        if not isinstance(error, DeviceLostError):
            log.error("thread %s failed", name, exc_info=error)
        self.on_crash(error)

    def _wake_moved(self) -> None:
        for thread in self.threads:
            thread.wake_if_moved()
        for inputs in self.inputs:
            inputs.wake_if_due()


class Lanes:
    """The threads of a worker's lanes, and the lock of its core. Any thread may call any method."""

    def __init__(
        self,
        core: WorkerCore,
        runner: TaskRunner,
        clock: Clock,
        on_answers: Callable[[], None],
        on_crash: Callable[[Exception], None],
        cores: CorePlan | None = None,
    ) -> None:
        """``on_answers`` is called when there are results for `take_results`.

        ``on_crash`` is called when a thread fails.

        Any thread may call these two functions. The functions must neither block nor call this object.
        """
        self.core = core
        self._shared = _SharedState(core, runner, clock, on_answers, on_crash)
        self._shared.threads = [_LaneThread(self._shared, gpu, kind, cores) for gpu, kind in core.lanes]
        gpus = sum(kind is LaneKind.EXEC for _, kind in core.lanes)
        self._shared.inputs = [_InputThread(self._shared, gpu, cores) for gpu in range(gpus)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._all():
            thread.start()

    def stop(self) -> None:
        """Start no more tasks, wait until running tasks have ended, and end the threads."""
        with self._shared.lock:
            self._shared.stopping = True
            for thread in self._all():
                thread.condition.notify_all()
        for thread in self._all():
            thread.join()

    def _all(self) -> "list[_LaneThread | _InputThread]":
        return [*self._shared.threads, *self._shared.inputs]

    async def end(self) -> None:
        """Call `stop` without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """Accept an action from the controller. Return when to call `expire` next, or None."""
        with self._shared.lock:
            self._shared.apply(ActionReceived(action, payloads))
            return self._shared.core.next_expiry()

    def expire(self) -> Nanos | None:
        """Fail the late actions, including those behind running tasks.

        Return when to call this method next, or None.
        """
        with self._shared.lock:
            self._shared.keep_and_wake(self._shared.core.expire(self._shared.clock.now()))
            return self._shared.core.next_expiry()

    def controller_lost(self) -> None:
        """Drop the results that have not been taken, because the connection to the controller is lost."""
        with self._shared.lock:
            self._shared.apply(ControllerLost())
            self._shared.answers.clear()

    def leave(self) -> None:
        """Refuse waiting and new actions. Running tasks continue to their ends."""
        with self._shared.lock:
            self._shared.apply(Leave())

    def owes_results(self) -> bool:
        """Return whether the controller expects the result of a running task."""
        with self._shared.lock:
            return self._shared.core.owes_results

    def take_results(self) -> list[ResultToSend]:
        """Return the results since the last call, in their order."""
        with self._shared.lock:
            answers, self._shared.answers = self._shared.answers, []
        try:
            return [self._shared.runner.finish(answer) for answer in answers]
        except DeviceLostError as error:
            self._shared.report_failure("that takes results", error)
            return []


class _LaneThread(Thread):
    """The thread of one lane."""

    def __init__(self, shared: _SharedState, gpu: int | None, kind: LaneKind, plan: CorePlan | None) -> None:
        super().__init__(name=f"clockwork-{kind}{'' if gpu is None else gpu}")
        self.condition = Condition(shared.lock)
        self._shared = shared
        self._gpu = gpu
        self._kind = kind
        self._cores = _cores(plan, gpu, kind)
        self._low_priority = (
            kind is not LaneKind.EXEC and plan is not None and all(len(own_cores) == 1 for own_cores in plan.exec)
        )
        self._set_time_slice = keep_core if plan is not None and plan.is_shared else shorten_time_slice
        self._watch = WATCH if kind is LaneKind.EXEC else 0
        self._asleep = False
        self._until: Nanos | None = None  #: time until which the thread sleeps
        self._prepared: PreparedTask | None = None

    def run(self) -> None:
        """Run until the lanes stop."""
        try:
            if self._low_priority:
                lower_priority()
            elif self._kind is LaneKind.EXEC:
                self._set_time_slice()
            pin(self._cores)
        except OSError as error:
            log.warning("thread %s cannot be pinned to cores %s: %s", self.name, self._cores, error)
        try:
            finished = None
            while not self._shared.stopping:
                finished = self._turn(finished)
            if finished is not None:
                with self._shared.lock:
                    self._shared.apply(finished)
        except Exception as error:  # noqa: BLE001 - report_failure logs it
            self._shared.report_failure(self.name, error)

    def wake_if_moved(self) -> None:
        """Wake the thread if its lane's wake-up time is earlier than the end of its sleep. Call this under the lock."""
        if self._asleep:
            moment = self._shared.core.next_wakeup_of(self._gpu, self._kind)
            if moment is not None and (self._until is None or moment < self._until):
                self._asleep = False
                self.condition.notify()

    def _turn(self, finished: TaskFinished | None) -> TaskFinished | None:
        """Report the end of the previous task.

        Then do one thing: execute a task, prepare a batch, or sleep. If a task was executed, return its result.
        """
        shared = self._shared
        upcoming = prepared = None
        with shared.lock:
            if finished is not None:
                shared.apply(finished)
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
        """Return the task to start now, or None."""
        task = None
        answers = []
        for command in self._shared.core.poll(self._shared.clock.now(), self._gpu, self._kind):
            if isinstance(command, StartTask):
                task = command
            else:
                answers.append(command)
        self._shared.keep_and_wake(answers)
        return task

    def _take_prepared(self, task: StartTask) -> PreparedTask | None:
        """Return the task's batch if the batch was assembled in advance.

        The INPUT thread may then assemble the next batch.
        """
        prepared, self._prepared = self._prepared, None
        if self._kind is LaneKind.EXEC and self._gpu is not None:
            inputs = self._shared.inputs[self._gpu]
            prepared = inputs.take(task) or prepared
            inputs.wake_if_due()
        return prepared

    def _unprepared(self) -> StartTask | None:
        """Return the next task if its batch is not prepared yet, else None."""
        if self._kind is not LaneKind.EXEC or self._gpu is None:
            return None
        task = self._shared.core.upcoming(self._gpu)
        if task is None or (self._prepared is not None and self._prepared.is_of(task)):
            return None
        return task

    def _sleep(self) -> None:
        """Sleep until shortly before the lane's wake-up time, or until that time changes.

        The lock is released meanwhile.
        """
        self._asleep = True
        self._until = self._shared.core.next_wakeup_of(self._gpu, self._kind)
        if self._until is None:
            self.condition.wait()
        else:
            left = self._until - self._watch - self._shared.clock.now()
            if left > 0:
                self.condition.wait(left / SECOND)

    def _watch_clock(self) -> None:
        """Read the clock repeatedly until the wake-up time, unless another thread wakes this thread."""
        until = self._until
        while self._asleep and self._watch and until is not None and self._shared.clock.now() < until:
            if until - self._shared.clock.now() > self._watch:
                break  # the thread woke far too early, so it must sleep again
            select.select((), (), (), 0)  # yield, so that other threads can take the interpreter's lock
        self._asleep = False


class _InputThread(Thread):
    """Assembles a device's next batch while the previous one is executed.

    While the device is idle, the EXEC thread assembles batches.

    This thread prepares a batch of one request only if the request's input must be copied to the device.
    """

    def __init__(self, shared: _SharedState, gpu: int, plan: CorePlan | None) -> None:
        super().__init__(name=f"clockwork-input{gpu}")
        self.condition = Condition(shared.lock)
        self._shared = shared
        self._gpu = gpu
        self._cores = plan.others if plan is not None else ()
        self._asleep = False
        self._task: StartTask | None = None  #: the task whose batch is being assembled
        self._prepared: PreparedTask | None = None

    def run(self) -> None:
        """Run until the lanes stop."""
        with suppress(OSError):  # the EXEC thread has already logged this error
            pin(self._cores)
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - report_failure logs it
            self._shared.report_failure(self.name, error)

    def wake_if_due(self) -> None:
        """Wake the thread if there is a batch to assemble. Call this under the lock."""
        if self._asleep and self._due() is not None:
            self._asleep = False
            self.condition.notify_all()

    def take(self, task: StartTask) -> PreparedTask | None:
        """Return the batch of a task that starts now, if this thread has assembled the batch.

        Call this under the lock. The call may release the lock and acquire it again.
        """
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
