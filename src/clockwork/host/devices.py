"""Defines the interface between a worker's host and its devices, which may be real or emulated."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from clockwork.host.task_runner import ResultToSend
from clockwork.messages.actions import Action
from clockwork.units import Nanos
from clockwork.worker.core import WorkerCore


class Devices(Protocol):
    """The worker's core, and the threads or timers that execute its tasks."""

    core: WorkerCore

    def start(self) -> None:
        """Start executing tasks."""
        ...

    async def end(self) -> None:
        """Start no more tasks, wait for running tasks, and free all resources."""
        ...

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """Accept an action from the controller. Return when to call `expire` next, or None."""
        ...

    def expire(self) -> Nanos | None:
        """Fail every action whose window has passed, even if it waits behind a running task.

        Return when to call this method next, or None.
        """
        ...

    def controller_lost(self) -> None:
        """Drop all results that were not taken yet, because the connection to the controller is lost."""
        ...

    def leave(self) -> None:
        """Refuse waiting and new actions. Running tasks continue until they end."""
        ...

    def owes_results(self) -> bool:
        """Return whether the controller expects the result of a running task."""
        ...

    def take_results(self) -> list[ResultToSend]:
        """Return the results since the last call, in the order in which they were produced."""
        ...


MakeDevices: TypeAlias = Callable[[Callable[[], None], Callable[[Exception], None]], Devices]
"""Creates the devices on the running event loop. The arguments are two callbacks.

The first callback is called when there are results for `Devices.take_results`. The second callback is called when the
devices have failed. Both callbacks must return without blocking, and any thread may call them.
"""
