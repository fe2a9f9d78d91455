"""Defines `FrontEnd`, which serves requests that a transport (HTTP or gRPC) has decoded."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from clockwork.clock import monotonic_epoch
from clockwork.controller.responses import retry_time
from clockwork.controller.stage import Stage
from clockwork.frontend.changing import load_parameters, unload_parameters
from clockwork.frontend.index import READY, index_of
from clockwork.frontend.listing import ListFormat, encoded_list
from clockwork.frontend.scaling import scaling_document
from clockwork.frontend.token_brake import TokenBrake
from clockwork.host.controller import ControllerHost
from clockwork.host.local_client import LocalClient
from clockwork.host.log_levels import LOG
from clockwork.messages.explanation import MODEL_DEFAULT, SLO_SOURCES
from clockwork.messages.faults import not_served, quoted, unknown_model, unknown_version
from clockwork.messages.requests import (
    DEFAULT_RETRY,
    ErrorResponse,
    ExplainRequest,
    ExplainResponse,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListRequestsRequest,
    ListRequestsResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelSummary,
    ModelVersion,
    Request,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.status import Status
from clockwork.messages.timeline import TimelineRequest, TimelineResponse
from clockwork.oip.classification import with_classes
from clockwork.oip.explanations import described, described_list
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.oip.metadata import (
    NO_WORKER,
    index_entry,
    model_metadata,
    model_statistics,
    server_metadata,
)
from clockwork.oip.model_config import model_config
from clockwork.oip.rest import TimelineQuery
from clockwork.oip.timeline import timeline_document
from clockwork.repository.models import RepositoryModel
from clockwork.stepping import BACKGROUND_REST, SharedResult
from clockwork.tracing.trace import Trace
from clockwork.units import MILLISECOND, Nanos
from clockwork.version import __version__

ResponseT = TypeVar("ResponseT")

_MISSED: Final = frozenset({Status.TIMEOUT, Status.CONTROLLER_COULD_NOT_START_IN_TIME})
"""Statuses of requests that failed because of their deadline: the deadline has passed, or cannot be met."""


class FrontEnd:
    """Serves the decoded requests of one transport. The methods of a front end must run on the controller's event loop.

    Every method raises `RequestFailedError` if the request fails. After `close`, every method raises
    `ConnectionLostError`.
    """

    def __init__(
        self, host: ControllerHost, statistics: ListFormat, index: ListFormat, *, ignore_timeout: bool = False
    ) -> None:
        """Create a front end for one transport.

        Args:
            host: the host of the controller.
            statistics: how the transport encodes the statistics of all models.
            index: how the transport encodes the repository index.
            ignore_timeout: whether to ignore the request parameter ``timeout``.
        """
        self.ignore_timeout: Final = ignore_timeout
        self._host = host
        self._statistics_format = statistics
        self._index_format = index
        self._all_statistics: SharedResult[Sequence[bytes]] = SharedResult(self._encode_statistics)
        self.access: Final = host.access
        self.token_brake: Final = TokenBrake()
        self.client: Final[LocalClient] = host.local_client()
        self.reception: Final = host.reception
        self.stepper: Final = host.stepper
        self.tracer: Final = host.tracer

    def close(self) -> None:
        """Fail all requests that wait for a response, and all later requests."""
        self.client.close()

    # --- the server --------------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Return whether at least one model can be served now."""
        return self._host.is_ready()

    def is_serving(self) -> bool:
        """Return whether start-up is over and the server is not shutting down."""
        return self._host.progress()[0] == Stage.SERVING.value

    def server_metadata(self, extensions: Sequence[str] = ()) -> dict[str, Any]:
        """Return the server's name, version and extensions.

        ``extensions`` are additional extensions that only this transport has.
        """
        return server_metadata(__version__, extensions)

    def log_settings(self) -> dict[str, Any]:
        """Return the settings of this process's log, by Triton's names."""
        return LOG.settings.values()

    def change_log_settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Change some settings of this process's log, and return all settings."""
        return LOG.change(values).values()

    # --- models ------------------------------------------------------------------------------------------------------

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Return whether the server can serve a request for the model now.

        The result is false for an unknown model or version.
        """
        return self._host.is_ready(name, version)

    def check_version(self, name: str, version: str) -> None:
        """Check that the version in a request exists. An empty version or an unknown model is not an error here.

        Raises:
            RequestFailedError: the model has no such version.
        """
        catalog = self._host.catalog
        if version and catalog.find(name, version) is None and (ready := catalog.ready(name)):
            message = unknown_version(name, version, ready)
            raise RequestFailedError(Failure.from_status(Status.UNKNOWN_MODEL, message))

    async def check_model_ready(self, name: str, version: str = "") -> None:
        """Raise `RequestFailedError` with the reason if the model cannot be served now."""
        if not self.is_serving():
            raise RequestFailedError(self._why_not_serving())
        server = self._host.description()
        if name in server.broken and not server.catalog.ready(name):
            message = not_served(name, server.broken[name])
            raise RequestFailedError(Failure.from_status(Status.SKIPPED_BY_CONTROLLER, message))
        await self.model(name, version)
        if not self._host.is_ready(name, version):
            message = f"model {quoted(name)} is not ready: {NO_WORKER}; retry later"
            status = Status.SKIPPED_BY_CONTROLLER
            raise RequestFailedError(Failure.from_status(status, message, retry_after=DEFAULT_RETRY))

    async def model(self, name: str, version: str = "") -> ModelSummary:
        """Return the summary of a served version. ``version`` is a number or a label; empty for the default version.

        During start-up, the call waits until start-up ends, but no longer than a ListModelsRequest waits.
        """
        if not self.is_serving():
            response, _ = await self._ask(ListModelsRequest(self.client.next_id()), ListModelsResponse)
            _check(response)
        found = self._host.description().summary_of(name, version)
        if found is None:
            raise self._missing(name, version)
        return found

    async def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Return a model's inputs and outputs."""
        found = await self.model(name, version)
        return model_metadata(found, self._host.catalog.ready(name))

    async def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """Return a model's configuration in Triton's terms."""
        return model_config(await self.model(name, version))

    def model_statistics(self, name: str, version: str = "") -> list[dict[str, Any]]:
        """Return Triton's statistics of one version of a model, or of all its versions if ``version`` is empty."""
        found = self._host.description().statuses_of(name, version)
        if not found:
            raise self._missing(name, version)
        return [model_statistics(status, monotonic_epoch()) for status in found]

    async def all_statistics(self) -> Sequence[bytes]:
        """Return the encoded statistics of all models, in parts.

        Requests that arrive at the same time share one encoding.
        """
        return await self._all_statistics.get()

    async def _encode_statistics(self) -> Sequence[bytes]:
        epoch = monotonic_epoch()
        entries = (model_statistics(model, epoch) for model in self._host.description().statuses())
        return await self.stepper.run(encoded_list(entries, self._statistics_format), rest=BACKGROUND_REST)

    async def scaling(self) -> dict[str, Any]:
        """Return how many devices of each kind the server wants, and the work of the busiest models."""
        return await self.stepper.run(scaling_document(self._host.description()), rest=BACKGROUND_REST)

    # --- the repository ----------------------------------------------------------------------------------------------

    async def repository_index(self, ready_only: bool) -> Sequence[bytes]:
        """Return the encoded list of all models and their states, in parts."""
        known: Sequence[RepositoryModel] = ()
        if self._host.repositories and not ready_only:
            known = await self._host.repositories.models()
        return await self.stepper.run(encoded_list(self._index(ready_only, known), self._index_format))

    def _index(self, ready_only: bool, known: Sequence[RepositoryModel]) -> Iterator[dict[str, Any]]:
        server = self._host.description()
        for name, version, state, reason in index_of(server, known, serving=self.is_serving()):
            if state == READY or not ready_only:
                yield index_entry(name, version, state, reason)

    async def load(self, name: str, parameters: Mapping[str, Any], *, default_name: str) -> None:
        """Load a model on all workers, or replace its versions.

        Args:
            name: the model's name.
            parameters: the request's parameters, which `clockwork.frontend.changing` describes.
            default_name: the model's name if ``name`` is a path. If this name is empty, the name is derived from the
                file's name.
        """
        wanted = load_parameters(parameters)
        versions: tuple[ModelVersion, ...] = ()
        path, served_as = wanted.path, name
        if not path and (self._host.repositories or wanted.override):
            versions = await self._host.repositories.resolve(name, wanted.override)
        elif not path and not self._host.catalog.versions(name):
            path, served_as = name, default_name
        request = LoadModelRequest(
            self.client.next_id(), path, served_as, versions=versions, keep=wanted.keep, wait=wanted.wait
        )
        response, _ = await self._ask(request, LoadModelResponse)
        _check(response)

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Unload a model, or one of its versions. As in Triton, an unload of an unknown model does nothing."""
        wanted = unload_parameters(parameters)
        request = UnloadModelRequest(self.client.next_id(), name, wanted.version, wanted.wait)
        response, _ = await self._ask(request, UnloadModelResponse)
        if response.status != Status.UNKNOWN_MODEL or wanted.version:
            _check(response)

    # --- inference ---------------------------------------------------------------------------------------------------

    def check_early(self, client: LocalClient, request: InferRequest) -> None:
        """Check the model and the inputs of a request before the elements of the inputs are decoded.

        Raises:
            RequestFailedError: the model is unknown, or the inputs do not match the model.
        """
        refused = client.refuse_early(request)
        if refused is not None:
            raise RequestFailedError(Failure.from_response(refused))

    async def infer(
        self,
        client: LocalClient,
        request: InferRequest,
        payload: Any,
        arrival: Nanos,
        trace: Trace | None = None,
    ) -> tuple[InferResponse, Any]:
        """Send a request to the controller, and return the successful response and its payload.

        Args:
            client: the client whose limits apply to the request.
            request: the request, with an id from ``client``.
            payload: the bytes of the inputs.
            arrival: when the request arrived. The request's SLO counts from its arrival.
            trace: the trace of the request; None if the request is not traced.
        """
        if trace is not None:
            trace.model, trace.passed = request.model, self.reception.clock.now()
            client.traces[request.id] = trace
        try:
            response, outputs = await client.ask(request, payload, arrival)
        except asyncio.CancelledError:
            if trace is not None:
                trace.cancelled(request, self.reception.clock.now() - arrival)
            raise
        if isinstance(response, InferResponse):
            if response.status != Status.SUCCESS:
                failure = Failure.from_response(response)
                if response.status in _MISSED:
                    failure = self._with_slo(failure, request)
                raise RequestFailedError(failure)
            return response, outputs
        assert isinstance(response, ErrorResponse), response
        raise RequestFailedError(Failure.from_status(response.status, response.message))

    async def classify(
        self, response: InferResponse, payload: Any, classes: Mapping[str, int], batched: bool
    ) -> tuple[InferResponse, Any]:
        """Return a successful response and its payload, with classes in place of the elements of outputs.

        Triton's classification extension defines the result. ``classes`` is the number of classes for each output.
        ``batched`` means that the first dimension of the outputs is the batch dimension.
        """
        return await self.stepper.run(with_classes(response, payload, classes, batched))

    def _with_slo(self, failure: Failure, request: InferRequest) -> Failure:
        """Return the failure. The failure's message also contains the request's SLO and the source of the SLO."""
        slo = request.slo
        if slo is None:
            slo = self.reception.default_slo(request.model)
        source = SLO_SOURCES[request.slo_source or MODEL_DEFAULT]
        text = f"{failure.message} (deadline of {slo / MILLISECOND:.12g} ms from {source})"
        return msgspec.structs.replace(failure, message=text)

    # --- recent requests ---------------------------------------------------------------------------------------------

    async def recent_requests(self, outcome: str, model: str, limit: int) -> list[Any]:
        """Return descriptions of the last answered requests. `ListRequestsRequest` explains the arguments."""
        request = ListRequestsRequest(self.client.next_id(), outcome, model, limit)
        response, _ = await self._ask(request, ListRequestsResponse)
        _check(response)
        return await self.stepper.run(described_list(response.requests))

    async def explanation(self, request_id: str) -> Any:
        """Return the explanation of an answered request."""
        response, _ = await self._ask(ExplainRequest(self.client.next_id(), request_id), ExplainResponse)
        if response.explanation is None:
            raise RequestFailedError(Failure(404, "NOT_FOUND", response.message, response.status))
        return described(response.explanation)

    async def timeline(self, query: TimelineQuery) -> dict[str, Any]:
        """Return what the devices executed recently, and what they are expected to execute next."""
        past, horizon = query.past_ms * MILLISECOND, query.horizon_ms * MILLISECOND
        request = TimelineRequest(self.client.next_id(), query.after, past, horizon, query.limit)
        response, _ = await self._ask(request, TimelineResponse)
        if response.timeline is None:
            raise RequestFailedError(Failure.from_status(response.status, response.message))
        return await self.stepper.run(timeline_document(response.timeline))

    # --- helpers -----------------------------------------------------------------------------------------------------

    async def _ask(self, request: Request, expected: type[ResponseT]) -> tuple[ResponseT, Any]:
        response, payload = await self.client.ask(request)
        if isinstance(response, expected):
            return response, payload
        assert isinstance(response, ErrorResponse), response
        raise RequestFailedError(Failure.from_status(response.status, response.message))

    def _missing(self, name: str, version: str) -> RequestFailedError:
        server = self._host.description()
        if server.started:
            return RequestFailedError(Failure.from_status(*server.catalog.why_missing(name, version)))
        if name in server.broken:
            message = not_served(name, server.broken[name])
            return RequestFailedError(Failure.from_status(Status.SKIPPED_BY_CONTROLLER, message))
        return RequestFailedError(Failure.from_status(Status.UNKNOWN_MODEL, unknown_model(name, server.state.models)))

    def _why_not_serving(self) -> Failure:
        if self._host.progress()[0] == Stage.DRAINING.value:
            return Failure.from_status(Status.SHUTTING_DOWN, "no model is ready: the server is shutting down")
        message = "no model is ready: the server is starting up"
        return Failure.from_status(Status.INITIALIZING, message, retry_after=DEFAULT_RETRY)


def _check(response: ListModelsResponse | LoadModelResponse | UnloadModelResponse | ListRequestsResponse) -> None:
    if response.status != Status.SUCCESS:
        retry_after = retry_time(response.status)
        raise RequestFailedError(Failure.from_status(response.status, response.message, retry_after=retry_after))
