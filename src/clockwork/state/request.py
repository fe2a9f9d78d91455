"""Defines a request that waits for its answer."""

from clockwork.messages.actions import InferInput
from clockwork.state.model import ModelState
from clockwork.state.sent import SentAction
from clockwork.state.verdict import Verdict
from clockwork.units import Bytes, Nanos


class PendingRequest:
    """An inference request that the controller has accepted but not answered yet.

    ``id`` is unique within the controller. ``deadline`` is absolute. ``input`` describes the request's tensors, in the
    form in which an Infer action contains them. ``payload`` is an opaque handle of the tensors' elements.
    ``batch_size`` is the number of rows that the request adds to a batch. ``cold_start`` means that no device had the
    weights when the request arrived. ``nbytes`` is the size of the request's inputs, whether the client sends them or
    the worker generates them. ``losses`` is the number of workers that were lost while they held the request.
    ``background`` means that the request counts neither as demand for its model nor as a use of the model's weights.
    ``public_id`` is the id that people use for the request. ``slo_source`` is a key of
    `clockwork.messages.explanation.SLO_SOURCES`, or empty for a default. ``sent`` is the last action that the
    controller sent for the request, if the controller records actions.

    A scheduler sets ``promised`` and ``reason``. ``promised`` is the time by which the scheduler has promised the
    answer, or None without a promise. ``reason`` explains why the promise is broken. ``reason`` is empty if the promise
    is not broken or the reason is unknown.

    A scheduler may also set ``verdict``, the parts of its last decision, if `ClockworkState.recording` is true.

    The controller sets ``over`` when the request has been answered or cancelled. A request that is over needs no
    further work.
    """

    __slots__ = (
        "arrival",
        "background",
        "batch_size",
        "client_id",
        "client_request_id",
        "cold_start",
        "deadline",
        "id",
        "input",
        "losses",
        "model",
        "nbytes",
        "over",
        "payload",
        "promised",
        "public_id",
        "reason",
        "sent",
        "slo_source",
        "verdict",
    )

    def __init__(
        self,
        id: int,
        client_id: int,
        client_request_id: int,
        model: ModelState,
        input: InferInput,
        payload: object,
        arrival: Nanos,
        deadline: Nanos,
        cold_start: bool = False,
        background: bool = False,
        public_id: str = "",
        slo_source: str = "",
    ) -> None:
        """Create a request without a promise."""
        self.id = id
        self.client_id = client_id
        self.client_request_id = client_request_id
        self.model = model
        self.input = input
        self.batch_size = input.batch_size
        self.payload = payload
        self.arrival = arrival
        self.deadline = deadline
        self.cold_start = cold_start
        self.background = background
        self.public_id = public_id
        self.slo_source = slo_source
        self.sent: SentAction | None = None
        self.verdict: Verdict | None = None
        self.promised: Nanos | None = None
        self.reason = ""
        self.nbytes: Bytes = sum([tensor.nbytes for tensor in input.tensors])
        self.losses = 0
        self.over = False

    def __repr__(self) -> str:
        return f"PendingRequest({self.id}, {self.model.name!r}, deadline={self.deadline})"
