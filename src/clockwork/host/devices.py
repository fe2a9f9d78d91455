"""The interface between a worker's host and its devices, real or emulated."""

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
        """Start no more tasks, wait for the running ones, and free all resources."""
        ...

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """Accept an action from the controller; return when to call `expire` next, or None."""
        ...

    def expire(self) -> Nanos | None:
        """Fail the late actions, including those behind running tasks; return when to call this next, or None."""
        ...

    def controller_lost(self) -> None:
        """Drop the results that have not been taken: the connection to the controller is lost."""
        ...

    def leave(self) -> None:
        """Refuse waiting and new actions; let running tasks finish."""
        ...

    def owes_results(self) -> bool:
        """Return whether a task is running whose result the controller waits for."""
        ...

    def take_results(self) -> list[ResultToSend]:
        """Return the results since the last call, in order."""
        ...


MakeDevices: TypeAlias = Callable[[Callable[[], None], Callable[[Exception], None]], Devices]
"""Creates the devices on the running event loop, from two callbacks that do not block and that any thread may call.

The first is called when there are results for `Devices.take_results`, the second when the devices have failed.
"""
