"""What a worker's host needs of its devices, whatever they are made of."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from clockwork.host.task_runner import ResultToSend
from clockwork.messages.actions import Action
from clockwork.units import Nanos
from clockwork.worker.core import WorkerCore


class Devices(Protocol):
    """The worker's core, and what carries its tasks out."""

    core: WorkerCore

    def start(self) -> None:
        """Begin to carry out."""
        ...

    async def end(self) -> None:
        """Start no more tasks, wait for those that run, and leave nothing behind."""
        ...

    def act(self, action: Action, payloads: tuple[object, ...] = ()) -> Nanos | None:
        """The controller has sent an action; returns when to call `expire` next, if at all."""
        ...

    def expire(self) -> Nanos | None:
        """Answer what is late, also behind running tasks; returns when to call this next, if at all."""
        ...

    def controller_lost(self) -> None:
        """There is nobody to send results to; those not taken yet are dropped."""
        ...

    def leave(self) -> None:
        """Begin nothing more; what waits and what comes is refused, what runs goes on."""
        ...

    def owes_results(self) -> bool:
        """Whether something runs whose result the controller waits for."""
        ...

    def take_results(self) -> list[ResultToSend]:
        """What the actions have come to since this was last called, in order."""
        ...


MakeDevices: TypeAlias = Callable[[Callable[[], None], Callable[[Exception], None]], Devices]
"""Makes them on the running event loop, from two callbacks that any thread may call and that do not block.

The first says that there is something for `take_results`, the second that they broke.
"""
