"""Refuses requests before they become pending: wrong requests, unknown models, and requests beyond a limit."""

from msgspec.structs import replace

from clockwork.controller.admission import Admission
from clockwork.controller.catalog import Catalog
from clockwork.controller.checking import check_names
from clockwork.controller.events import Respond
from clockwork.controller.pending import Pending
from clockwork.controller.quota import Quota
from clockwork.controller.recording import Recorder
from clockwork.controller.responses import refusal_response
from clockwork.controller.tally import Tally
from clockwork.errors import InvalidRequestError
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.units import Bytes, Nanos


class Refusing:
    """Makes, counts and records the refusals."""

    def __init__(
        self, catalog: Catalog, tally: Tally, admission: Admission, pending: Pending, recorder: Recorder
    ) -> None:
        """All objects are those of the stage SERVING."""
        self._catalog = catalog
        self._tally = tally
        self._admission = admission
        self._pending = pending
        self._recorder = recorder

    def refuse_early(self, now: Nanos, client_id: int, message: InferRequest) -> Respond | None:
        """Return and count a refusal if the model is unknown or does not accept the inputs. Otherwise, return None."""
        model = self._catalog.find(message.model, message.version)
        status, text = Status.INVALID_REQUEST, ""
        try:
            check_names(message)
            if model is None:
                status, text = self._catalog.why_missing(message.model, message.version)
            elif model.profiles:  # otherwise, the request is refused later, because the model has no profile
                self._admission.batch_size(model, message)
        except InvalidRequestError as error:
            text = str(error)
        return self.refuse(now, client_id, message, status, text) if text else None

    def refuse_full(
        self, now: Nanos, client_id: int, message: InferRequest, nbytes: Bytes, waiting: Quota
    ) -> Respond | None:
        """Return a refusal if this request, the ``waiting`` and the pending ones together exceed a limit, else None."""
        full = self._pending.quota.reason_to_refuse(client_id, nbytes, beside=waiting)
        if full is None:
            return None
        return self.refuse(now, client_id, message, Status.SKIPPED_BY_CONTROLLER, full.text, full.reason)

    def refuse(
        self,
        now: Nanos,
        client_id: int,
        message: InferRequest,
        status: Status,
        text: str,
        reason: RefusalReason = RefusalReason.OTHER,
    ) -> Respond:
        """Return, count and record the refusal of a request that is not accepted."""
        if (model := self._catalog.find(message.model, message.version)) is not None:
            self._tally.of(model.name).answered(now, status, 0, reason=reason)
        else:
            self._tally.count_without_model(status)
        retry_after = self._catalog.retry_time(message.model)
        respond = refusal_response(client_id, message, status, text, retry_after=retry_after)
        return self.recorded(now, message, respond, reason)

    def recorded(
        self, now: Nanos, message: InferRequest, respond: Respond, reason: RefusalReason = RefusalReason.OTHER
    ) -> Respond:
        """Record a response to a request that did not become pending, and return it."""
        assert isinstance(respond.response, InferResponse)
        self._recorder.refused(now, message, respond.response, reason)
        return replace(respond, reason=reason)
