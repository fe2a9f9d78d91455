"""The records that `clockwork.controller.recording` keeps of answered requests."""

from msgspec import Struct

from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferResponse
from clockwork.state import PendingRequest, SentAction
from clockwork.units import Nanos


class Record(Struct, gc=False):
    """An answered request.

    ``request`` is None if the request was refused before it became pending. In this case ``model`` is the model that
    the request named. ``slo`` is 0 if it is unknown. ``ahead`` are the actions that the request's device executed
    between the arrival and the begin of the request's batch.
    """

    answered: Nanos
    outcome: str
    reason: RefusalReason
    broken: bool
    response: InferResponse
    request: PendingRequest | None
    model: str = ""
    slo: Nanos = 0
    slo_source: str = ""
    ahead: tuple[SentAction, ...] = ()
