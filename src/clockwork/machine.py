"""The interface between machines, which decide, and their hosts, which act.

A *machine* has no clock, I/O, thread or global randomness. The same list of ``(now, event)`` gives the same commands.
The host of a machine has three duties:

1. pass events to the machine: ``commands = machine.handle(now, event)``
2. wake the machine when ``next_wakeup()`` is reached, and not before: ``commands = machine.wake(now)``
3. carry out the commands in order, and then call ``next_wakeup()`` again

``now`` never decreases. The live host (asyncio) and the simulator (a heap of events) have the same duties, and a
machine cannot tell them apart.
"""

from typing import Protocol, TypeVar

from clockwork.units import Nanos

EventT = TypeVar("EventT", contravariant=True)
CommandT = TypeVar("CommandT")


class Machine(Protocol[EventT, CommandT]):
    """An object that handles events and returns commands."""

    def handle(self, now: Nanos, event: EventT) -> list[CommandT]:
        """Handle an event that happened at ``now``; return commands to carry out in order."""
        ...

    def wake(self, now: Nanos) -> list[CommandT]:
        """Do the work that is due (``now >= next_wakeup()``); return commands to carry out in order."""
        ...

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `wake` next; None: not before the next event."""
        ...
