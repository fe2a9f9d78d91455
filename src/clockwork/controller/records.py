"""The records that `clockwork.controller.recording` keeps of answered requests."""

from msgspec import Struct

from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferResponse
from clockwork.state import PendingRequest
from clockwork.units import Nanos


class Record(Struct, frozen=True, gc=False):
    """An answered request.

    ``request`` is None if the request was refused before it became pending. In this case ``model`` is the model that
    the request named. ``slo`` is 0 if it is unknown.
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
