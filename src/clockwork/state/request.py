"""A request while it waits for its answer."""

from clockwork.messages.actions import InferInput
from clockwork.state.model import ModelState
from clockwork.units import Bytes, Nanos


class PendingRequest:
    """An inference that the controller has accepted and not yet answered.

    ``id`` is unique within the controller. ``deadline`` is absolute. ``input`` is its share of an Infer action,
    ``payload`` an opaque handle of its tensors' elements, ``batch_size`` its rows in a batch.
    ``cold_start``: when the request arrived, no device had the weights.
    ``promised`` is the time by which the scheduler has promised the answer; None if there is no promise. ``reason`` is
    why the promise is broken; it is empty if the promise is not broken or the reason is unknown. A scheduler sets both.
    ``nbytes`` is the size of its inputs, sent or generated. ``losses`` counts the workers that were lost while they
    held the request. ``over`` is set by the controller when the request has been answered or cancelled: nothing more is
    to be done.
    """

    __slots__ = (
        "arrival",
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
        "reason",
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
        self.promised: Nanos | None = None
        self.reason = ""
        self.nbytes: Bytes = sum([tensor.nbytes for tensor in input.tensors])
        self.losses = 0
        self.over = False

    def __repr__(self) -> str:
        return f"PendingRequest({self.id}, {self.model.name!r}, deadline={self.deadline})"
