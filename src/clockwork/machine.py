"""The interface between machines, which make decisions, and their hosts, which carry out the decisions.

A *machine* uses no clock, I/O, thread or global randomness. For the same times and events, a machine always returns the
same commands. The host of a machine has three duties:

1. pass events to the machine: ``commands = machine.handle(now, event)``
2. wake the machine when the time ``next_wakeup()`` is reached, and not before: ``commands = machine.wake(now)``
3. carry out the commands in order, and then call ``next_wakeup()`` again

``now`` must never decrease. The live server (with asyncio) and the simulator (with a heap of events) are both hosts. A
machine works in the same way with both hosts.
"""

from typing import Protocol, TypeVar

from clockwork.units import Nanos

EventT = TypeVar("EventT", contravariant=True)
CommandT = TypeVar("CommandT")


class Machine(Protocol[EventT, CommandT]):
    """An object that handles events, and returns commands for its host."""

    def handle(self, now: Nanos, event: EventT) -> list[CommandT]:
        """Handle an event that happened at ``now``, and return the commands that the host must carry out in order."""
        ...

    def wake(self, now: Nanos) -> list[CommandT]:
        """Do the work that is due at ``now``, and return the commands that the host must carry out in order.

        The host calls this method when ``now >= next_wakeup()``.
        """
        ...

    def next_wakeup(self) -> Nanos | None:
        """Return the time at which the host must call `wake`. None means that nothing is due before the next event."""
        ...
