"""The contract between the parts that decide and the hosts that act.

A *machine* computes and never acts: no clock, no I/O, no thread, no global randomness. The same list of ``(now,
event)`` gives the same commands. Whoever hosts a machine has three duties:

1. tell it what happened: ``commands = machine.handle(now, event)``;
2. wake it when it asked to be woken, never before: ``commands = machine.wake(now)`` with ``now >= next_wakeup()``;
3. carry out the commands in order, then ask ``next_wakeup()`` again.

``now`` never runs backwards. The live host (asyncio) and the simulator (a heap of events) keep the same three duties,
and a machine cannot tell them apart.
"""

from typing import Protocol, TypeVar

from clockwork.units import Nanos

EventT = TypeVar("EventT", contravariant=True)
CommandT = TypeVar("CommandT")


class Machine(Protocol[EventT, CommandT]):
    """A part of Clockwork that decides."""

    def handle(self, now: Nanos, event: EventT) -> list[CommandT]:
        """Something happened at ``now``; returns what to do about it, in order."""
        ...

    def wake(self, now: Nanos) -> list[CommandT]:
        """The moment that was asked for has come (``now >= next_wakeup()``)."""
        ...

    def next_wakeup(self) -> Nanos | None:
        """When to call `wake` next; ``None`` if only an event can move the machine."""
        ...
