"""Makes the controller's own requests: measurements of models, checks of batches, and copies for shadows.

The controller's own requests have no client. The scheduler treats them like any other request. There are four kinds:
checks of batches, copies of live requests for shadows, measurements of new models, and measurements of models whose
estimates may be too long. At most one request of each kind is pending. Checks and copies are executed only while the
server is idle, and never at the same time.
"""

from clockwork.controller.admission import Admission
from clockwork.controller.catalog import Catalog
from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ControllerCommand, OutputsCompared, ShadowCompared
from clockwork.controller.live_measuring import LiveMeasuring
from clockwork.controller.pending import NO_CLIENT, Pending
from clockwork.controller.remeasuring import Remeasuring
from clockwork.controller.shadowing import Shadows
from clockwork.controller.tally import Tally
from clockwork.controller.verifying import BatchChecks
from clockwork.messages.actions import DeviceAction, Infer
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import InferResult
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest
from clockwork.units import Nanos


class OwnRequests:
    """Decides when one of the controller's own requests begins, and handles its outcome."""

    def __init__(
        self,
        state: ClockworkState,
        tally: Tally,
        config: ControllerConfig,
        profiles: dict[ProfileKey, ModelProfile],
        pending: Pending,
        catalog: Catalog,
        admission: Admission,
    ) -> None:
        """``profiles`` were measured earlier. ``pending`` contains the requests of clients and of the controller."""
        self._state = state
        self._pending = pending
        self._tally = tally
        self.checks = BatchChecks(state, tally, config.verifying)
        self.measuring = LiveMeasuring(state, config.profiling, profiles)
        self.remeasuring = Remeasuring(state, config.profiling)
        self.shadows = Shadows(state, catalog, admission, config)

    def __len__(self) -> int:
        """Return the number of the controller's own requests that are pending."""
        return sum(request is not None for request in self._requests())

    def _requests(self) -> tuple[PendingRequest | None, ...]:
        return self.checks.request, self.shadows.request, self.measuring.request, self.remeasuring.request

    @property
    def due(self) -> bool:
        """Whether a check, a copy or a measurement waits for its turn."""
        return self.checks.due or self.shadows.due or self.measuring.due or self.remeasuring.due

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `next` again, if no event happens before."""
        moments = (self.measuring.next_wakeup(), self.remeasuring.next_wakeup())
        return min([moment for moment in moments if moment is not None], default=None)

    def needs(self, model: ModelState) -> bool:
        """Return whether a check, copy or measurement of this model is under way."""
        return any(request is not None and request.model is model for request in self._requests())

    def forget(self, model: ModelState) -> None:
        """Forget a model that was removed. None of the controller's own requests for the model may be pending."""
        self.checks.forget(model)
        self.measuring.remove(model)
        self.remeasuring.forget(model)

    def is_alone(self, action: DeviceAction) -> bool:
        """Return whether an action executes only one request, and this request is the controller's own."""
        if not isinstance(action, Infer) or len(action.inputs) != 1:
            return False
        request = self._pending.get(action.inputs[0].request_id)
        return request is not None and request.client_id == NO_CLIENT

    def next(self, now: Nanos, request_id: int) -> PendingRequest | None:
        """Return the next measurement if it may begin now.

        Otherwise, return a check or a copy if the server is idle, or else None.
        """
        idle = not self._pending and next(self._state.outstanding(), None) is None
        request = self.measuring.begin(now, request_id, idle=idle) or self.remeasuring.begin(now, request_id, idle=idle)
        if request is None and idle and self.checks.due:
            request = self.checks.begin(now, request_id)
        if request is None and idle and self.shadows.due:
            request = self.shadows.begin(now, request_id)
        return request

    def make_way(self, now: Nanos, arrived: PendingRequest) -> PendingRequest | None:
        """Withdraw the check or copy under way if it was not sent to a device yet.

        A client's new request then goes first. Return the withdrawn request, which the caller must cancel.
        """
        self.measuring.note_request(now)
        if self.shadows.running:
            self.shadows.note(now, arrived)
        request = self.checks.request or self.shadows.request
        if request is None or any(_executes(action, request) for action in self._state.outstanding()):
            return None
        if request is self.checks.request:
            self.checks.withdraw()
        else:
            self.shadows.withdraw()
        return request

    def executed(
        self,
        now: Nanos,
        gpu: GPUState,
        request: PendingRequest,
        action: Infer,
        result: InferResult,
        place: int,
        payload: object,
    ) -> list[ControllerCommand]:
        """Handle the outputs of one of the controller's own requests. The request is no longer pending."""
        if request is self.checks.request:
            return self.checks.executed(action, result.outputs[place], payload)
        if request is self.shadows.request:
            return self.shadows.executed(result.outputs[place], payload)
        if request is self.remeasuring.request:
            self.remeasuring.ended(now, result.exec.duration)
            return []
        return self.measuring.executed(now, action, result, result.outputs[place], gpu.kind)

    def answered(self, now: Nanos, request: PendingRequest, status: Status, message: str) -> list[ControllerCommand]:
        """Handle the refusal or failure of one of the controller's own requests. The request is no longer pending."""
        if request is self.checks.request:
            return self.checks.answered(status, message)
        if request is self.shadows.request:
            return self.shadows.answered(status, message)
        if request is self.remeasuring.request:
            self.remeasuring.ended(now, None)
            return []
        return self.measuring.answered(now, status, message)

    def compared(self, event: OutputsCompared | ShadowCompared) -> list[ControllerCommand]:
        """Handle the result of the host's comparison of outputs."""
        return self.checks.compared(event) if isinstance(event, OutputsCompared) else self.shadows.compared(event)

    def client_answered(self, now: Nanos, request: PendingRequest, status: Status, reason: RefusalReason) -> None:
        """Note the response to a client's request. ``reason`` is why it was refused."""
        if status == Status.SUCCESS:
            self.remeasuring.succeeded(request)
        elif reason is RefusalReason.DEVICE_TOO_SLOW:
            self.remeasuring.refused(now, request, self._tally.of(request.model.name).last_success)

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self.checks.check_invariants()
        self.shadows.check_invariants()
        assert self.checks.request is None or self.shadows.request is None
        for own in self._requests():
            assert own is None or self._pending.get(own.id) is own
        assert sum(request.client_id == NO_CLIENT for request in self._pending) == len(self)


def _executes(action: DeviceAction, request: PendingRequest) -> bool:
    """Return whether an action executes a request."""
    return isinstance(action, Infer) and any(share.request_id == request.id for share in action.inputs)
