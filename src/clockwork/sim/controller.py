"""Runs a controller on the simulated loop. The controller's work may take time.

This module corresponds to the live host's `MachineRunner`. The module also decides which waiting event is handled next
after the controller was busy.
"""

from collections.abc import Callable

from msgspec import Struct

from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.events import ClientRequest, ControllerCommand, Event, RequestsShed, Respond, WorkerResult
from clockwork.controller.shedding import MAX_URGENT_SLO, Shedder
from clockwork.messages.actions import Infer
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import InferRequest
from clockwork.sim.inbox import ByKind, Inbox, is_inference
from clockwork.sim.loop import Loop
from clockwork.sim.timer import Timer
from clockwork.units import Nanos


class Costs(Struct, frozen=True):
    """Time that the controller spends on a request, on an early refusal, on a result, and on sending an Infer."""

    request: Nanos = 0
    refusal: Nanos = 0
    result: Nanos = 0
    action: Nanos = 0


class TimedController:
    """Passes events to the controller one at a time, and wakes it.

    After each event, the controller is busy for the time that the event costs.
    """

    def __init__(
        self,
        loop: Loop,
        controller: ControllerWithStartupPhase,
        execute: Callable[[ControllerCommand], None],
        moved: Callable[[], None],
        costs: Costs,
        inbox: Inbox | None = None,
    ) -> None:
        """``execute`` executes a command. ``moved`` is called after each event and wake-up."""
        self._loop = loop
        self._controller = controller
        self._execute = execute
        self._moved = moved
        self._costs = costs
        self._free = costs == Costs()
        self._inbox = ByKind() if inbox is None else inbox
        self._shedder = Shedder()
        self._timer = Timer(loop, controller.next_wakeup if self._free else self._next_wakeup, self._wake)
        self._busy_until: Nanos = 0
        self.busy: Nanos = 0  #: time spent on work so far

    def feed(self, event: Event) -> None:
        """Handle an event now, or queue it while the controller is busy."""
        if self._free:
            self.handle(event)
            return
        if not is_inference(event):
            self._inbox.put(event)
        elif self._sheds(event):
            return
        else:
            self._inbox.put(event)
            self._shedder.queued(_slo(event))
        if self._loop.now >= self._busy_until:
            self._advance()

    def _sheds(self, event: Event) -> bool:
        """Refuse a request that would wait too long, as the live host does when it reads a request."""
        assert isinstance(event, ClientRequest)
        assert isinstance(event.request, InferRequest)
        request, now = event.request, self._loop.now
        if request.slo is None:
            return False
        shed = self._shedder.refuses(now, now if event.arrival is None else event.arrival, request.slo)
        if shed is None:
            return False
        self._execute(Respond(event.client_id, shed.response(request)))
        for command in self._controller.handle(now, RequestsShed({(request.model, request.version): 1})):
            self._execute(command)
        self._spend(self._costs.refusal)
        return True

    def handle(self, event: Event) -> None:
        """Handle an event now, before all events that wait."""
        commands = self._controller.handle(self._loop.now, event)
        for command in commands:
            self._execute(command)
        if not self._free:
            self._spend(self._cost(event, commands))
        self._timer.arm()
        self._moved()

    def _advance(self, _: object = None) -> None:
        """Wake the controller if a wake-up is due. Then handle events until the controller is busy again."""
        self._timer.arm()
        while self._loop.now >= self._busy_until:
            due = self._controller.next_wakeup()
            if due is not None and due <= self._loop.now:
                return  # the timer will fire at that moment
            event = self._inbox.take()
            if event is None:
                return
            if is_inference(event):
                self._shedder.withdrawn(_slo(event))
                self._shedder.taken(self._loop.now, 1)
            self.handle(event)

    def _next_wakeup(self) -> Nanos | None:
        due = self._controller.next_wakeup()
        return due if due is None else max(due, self._busy_until)

    def _wake(self) -> None:
        commands = self._controller.wake(self._loop.now)
        for command in commands:
            self._execute(command)
        self._moved()
        if self._free:
            return
        self._spend(self._sent(commands))
        if self._loop.now >= self._busy_until:
            self._advance()

    def _spend(self, cost: Nanos) -> None:
        if cost:
            self.busy += cost
            self._busy_until = max(self._busy_until, self._loop.now) + cost
            self._loop.at(self._busy_until, self._advance)

    def _cost(self, event: Event, commands: list[ControllerCommand]) -> Nanos:
        cost = self._sent(commands)
        if is_inference(event):
            at_once = any(isinstance(command, Respond) for command in commands)
            return cost + (self._costs.refusal if at_once else self._costs.request)
        return cost + self._costs.result if isinstance(event, WorkerResult) else cost

    def _sent(self, commands: list[ControllerCommand]) -> Nanos:
        if not self._costs.action:
            return 0
        return self._costs.action * sum(
            isinstance(command, SendAction) and isinstance(command.action, Infer) for command in commands
        )


def _slo(event: Event) -> Nanos:
    assert isinstance(event, ClientRequest)
    assert isinstance(event.request, InferRequest)
    # the simulator has only one queue
    return 0 if event.request.slo is None else min(MAX_URGENT_SLO, event.request.slo)
