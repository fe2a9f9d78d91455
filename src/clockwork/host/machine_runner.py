"""Runs a machine on an asyncio event loop.

The runner passes events to the machine, executes the machine's commands, and keeps one timer for the machine.

The timer may fire before the machine's wake-up time, because an event may postpone the wake-up time without changing
the timer. In this case, the timer is set again, and the machine is not woken.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from clockwork.alarm import Alarm
from clockwork.clock import Clock
from clockwork.machine import Machine
from clockwork.units import Nanos

EventT = TypeVar("EventT")
CommandT = TypeVar("CommandT")


class MachineRunner(Generic[EventT, CommandT]):
    """Runs one machine with a timer on the event loop that is running when this object is created."""

    def __init__(
        self,
        machine: Machine[EventT, CommandT],
        clock: Clock,
        execute: Callable[[CommandT], None],
    ) -> None:
        """``execute`` executes one command. No code may call `feed` while ``execute`` runs."""
        self._machine = machine
        self._clock = clock
        self._execute = execute
        self._alarm = Alarm(asyncio.get_running_loop(), self._fire)
        self._armed_for: Nanos | None = None
        self._closed = False

    def feed(self, event: EventT) -> None:
        """Pass an event and the current time to the machine."""
        if self._closed:
            return
        for command in self._machine.handle(self._clock.now(), event):
            self._execute(command)
        self._arm()

    def close(self) -> None:
        """Stop waking the machine, and ignore later events."""
        self._closed = True
        self._alarm.close()

    def _arm(self) -> None:
        wakeup = self._machine.next_wakeup()
        if wakeup is None or self._closed:
            return
        if self._armed_for is None or wakeup < self._armed_for:
            self._armed_for = wakeup
            self._alarm.set(wakeup - self._clock.now())

    def _fire(self) -> None:
        self._armed_for = None
        now = self._clock.now()
        wakeup = self._machine.next_wakeup()
        if wakeup is not None and wakeup <= now:
            for command in self._machine.wake(now):
                self._execute(command)
        self._arm()
