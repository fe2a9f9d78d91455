"""What a scheduler tells the controller to do."""

from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.actions import Action
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.units import Nanos


class SendAction(Struct, frozen=True):
    """Send an action to a worker.

    ``payloads`` holds one opaque handle per input of an Infer, added by the controller. ``start`` is when the scheduler
    expects the action to begin, 0 if it does not say: a prediction that is held against what happens, no condition.
    """

    worker_id: str
    action: Action
    payloads: tuple[object, ...] = ()
    start: Nanos = 0


class Answer(Struct, frozen=True):
    """Answer a pending request. A successful Infer answers its requests by itself; this is for all else.

    ``predicted`` and ``retry_after`` are nanoseconds after the request's arrival and from now.
    """

    request_id: int
    status: Status
    message: str = ""
    outputs: tuple[TensorSpec, ...] = ()
    payload: object = None
    predicted: Nanos | None = None
    retry_after: Nanos | None = None


Command: TypeAlias = SendAction | Answer
