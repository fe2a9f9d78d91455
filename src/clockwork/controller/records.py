"""The records that `clockwork.controller.recording` keeps of answered requests and of ended actions.

Theory of operation. A record refers to dozens of small objects. If these objects stayed alive, the allocator would
spread the objects of later requests over the gaps between them, and every request would be slower, because its objects
would not be in the processor's caches. So the records of frequent events are packed: `pack` encodes a record as one
block of bytes, and the small objects are freed together with the request. Only the readers of records decode them.
"""

from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from clockwork.messages.actions import InferInput
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferResponse
from clockwork.state import ModelState, PendingRequest, SentAction, Verdict
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


class PackedRecord(Struct, gc=False):
    """A packed record of a request that was pending. ``data`` contains everything but the other fields."""

    answered: Nanos
    outcome: str
    broken: bool
    model: ModelState
    data: bytes


Kept: TypeAlias = Record | PackedRecord
"""A record in the form in which it is kept."""


class _Content(Struct, gc=False, array_like=True):
    """The content of `PackedRecord.data`. The names are those of `Record` and `PendingRequest`."""

    reason: RefusalReason
    response: InferResponse
    ahead: tuple[SentAction, ...]
    id: int
    client_id: int
    client_request_id: int
    input: InferInput
    arrival: Nanos
    deadline: Nanos
    cold_start: bool
    public_id: str
    slo_source: str
    promised: Nanos | None
    why_broken: str
    sent: SentAction | None
    verdict: Verdict | None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Content).decode
_decode_action: Final = msgspec.msgpack.Decoder(SentAction).decode


def pack(record: Record) -> Kept:
    """Return a record in packed form. Return the same record if it is not complete yet or cannot be encoded."""
    request = record.request
    if request is None or (request.sent is not None and not request.sent.arrived):
        return record
    if request.verdict is not None and request.verdict.kept is not None:
        return record
    content = _Content(
        record.reason,
        record.response,
        record.ahead,
        request.id,
        request.client_id,
        request.client_request_id,
        request.input,
        request.arrival,
        request.deadline,
        request.cold_start,
        request.public_id,
        request.slo_source,
        request.promised,
        request.reason,
        request.sent,
        request.verdict,
    )
    return PackedRecord(record.answered, record.outcome, record.broken, request.model, _encode(content))


def unpack(kept: Kept) -> Record:
    """Return the record that `pack` has packed."""
    if isinstance(kept, Record):
        return kept
    found = _decode(kept.data)
    request = PendingRequest(
        found.id,
        found.client_id,
        found.client_request_id,
        kept.model,
        found.input,
        None,
        found.arrival,
        found.deadline,
        found.cold_start,
        public_id=found.public_id,
        slo_source=found.slo_source,
    )
    request.sent, request.verdict = found.sent, found.verdict
    request.promised, request.reason, request.over = found.promised, found.why_broken, True
    return Record(kept.answered, kept.outcome, found.reason, kept.broken, found.response, request, ahead=found.ahead)


def may_have_id(kept: Kept, request_id: str) -> bool:
    """Return whether a record may be that of the request with this id. The answer is fast and may be wrongly true."""
    if isinstance(kept, Record):
        return kept.response.request_id == request_id
    return request_id.encode(errors="surrogatepass") in kept.data


def model_of(kept: Kept) -> str:
    """Return the name by which clients know the model of a request."""
    if isinstance(kept, PackedRecord):
        return kept.model.served_as
    return kept.model if kept.request is None else kept.request.model.served_as


def is_of(kept: Kept, model: str) -> bool:
    """Return whether a record refers to the model with this name."""
    if isinstance(kept, PackedRecord):
        return kept.model.name == model
    return kept.request is not None and kept.request.model.name == model


def pack_action(action: SentAction) -> bytes:
    """Return an ended action in packed form."""
    return _encode(action)


def unpack_action(data: bytes) -> SentAction:
    """Return the action that `pack_action` has packed."""
    return _decode_action(data)
