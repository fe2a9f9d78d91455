"""Commands to the controller's host: to send an action to a worker, or to answer a request."""

from typing import Final

from msgspec import Struct

from clockwork.messages.actions import Action
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.units import Nanos


class SendAction(Struct, frozen=True):
    """Send an action to a worker. ``payloads`` contains an opaque handle for each input of an Infer action."""

    worker_id: str
    action: Action
    payloads: tuple[object, ...] = ()


NO_RETRY: Final[Nanos] = -1
"""Value of ``Answer.retry_after`` for a request that would always be refused. The client gets no retry time."""


class Answer(Struct, frozen=True):
    """A scheduler's answer to a pending request. If the request's Infer action succeeds, the scheduler gives no answer.

    ``predicted`` is the predicted completion in nanoseconds after the request's arrival. ``retry_after`` is the time
    from now after which the client should try again. ``retry_after`` is None if this time is unknown, and `NO_RETRY` if
    a retry would not help. ``reason`` is only used if ``status`` means a refusal. Refusals are counted by reason.
    """

    request_id: int
    status: Status
    message: str = ""
    outputs: tuple[TensorSpec, ...] = ()
    payload: object = None
    predicted: Nanos | None = None
    retry_after: Nanos | None = None
    reason: RefusalReason | None = None
