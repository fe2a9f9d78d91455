"""A client's request while it waits for its answer."""

from clockwork.messages.actions import InferInput
from clockwork.state.model import ModelState
from clockwork.units import Bytes, Nanos


class PendingRequest:
    """An inference that the controller has accepted and not yet answered.

    ``id`` is unique within the controller. ``deadline`` is absolute. ``input`` is its share of an Infer action;
    ``payload`` an opaque handle on its tensors' elements; ``batch_size`` its rows in a batch.
    ``cold_start``: no device held the weights at arrival.
    ``promised`` is the moment by which the scheduler said the answer would be there, None if it has said nothing;
    ``excuse`` is what has broken its word since, if something has. A scheduler sets both.
    ``nbytes``: what its inputs take, sent or generated. ``losses``: workers that were lost while they held it.
    ``over`` is set by the controller when it has been answered or cancelled: nothing is to be done for it any more.
    """

    __slots__ = (
        "arrival",
        "batch_size",
        "client_id",
        "client_request_id",
        "cold_start",
        "deadline",
        "excuse",
        "id",
        "input",
        "losses",
        "model",
        "nbytes",
        "over",
        "payload",
        "promised",
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
        """See the class."""
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
        self.excuse = ""
        self.nbytes: Bytes = sum([tensor.nbytes for tensor in input.tensors])
        self.losses = 0
        self.over = False

    def __repr__(self) -> str:
        return f"PendingRequest({self.id}, {self.model.name!r}, deadline={self.deadline})"
