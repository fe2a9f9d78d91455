"""Orders to the controller: send an action to a worker, answer a request."""

from typing import Final

from msgspec import Struct

from clockwork.messages.actions import Action
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.units import Nanos


class SendAction(Struct, frozen=True):
    """Send an action to a worker; ``payloads`` holds one opaque handle per input of an Infer."""

    worker_id: str
    action: Action
    payloads: tuple[object, ...] = ()


NO_RETRY: Final[Nanos] = -1
"""Value of ``Answer.retry_after`` for a request that would be refused at any time; its response has no retry time."""


class Answer(Struct, frozen=True):
    """A scheduler's answer to a pending request that is not answered by a successful Infer.

    ``predicted`` is the predicted completion in nanoseconds after the request's arrival; ``retry_after`` is the time
    from now after which the client should try again: None if it is not known, `NO_RETRY` if no waiting helps.
    ``reason`` is counted if ``status`` means a refusal.
    """

    request_id: int
    status: Status
    message: str = ""
    outputs: tuple[TensorSpec, ...] = ()
    payload: object = None
    predicted: Nanos | None = None
    retry_after: Nanos | None = None
    reason: RefusalReason | None = None
