"""The methods of ``GRPCInferenceService``, asked of the controller by a `LocalClient`.

Rules of the file: a method takes a message and the call, and returns a message; what is no success is raised as
`CallFailedError`, and told by the contract's code, message and trailing metadata in one place.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServicerContext

from clockwork.clock import Clock, MonotonicClock, monotonic_epoch
from clockwork.errors import ConnectionLostError, InvalidRequestError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.accepting import ARRIVED, MAX_REMAINING
from clockwork.grpc_frontend.infer import NO_PARAMETERS, parse, request_of, response_of, with_payload
from clockwork.grpc_frontend.listing import encoded_list
from clockwork.grpc_frontend.peers import Peers
from clockwork.grpc_frontend.raw_contents import MIN_SPLIT_BYTES, in_stream, model_name
from clockwork.grpc_frontend.scanning import check_infer, check_question
from clockwork.grpc_frontend.trailing import trailing
from clockwork.host.controller import ControllerHost
from clockwork.host.local_client import LocalClient
from clockwork.messages.requests import (
    ErrorResponse,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelSummary,
    Request,
)
from clockwork.messages.status import Status
from clockwork.oip.contract import Failure, failure, failure_of
from clockwork.oip.metadata import (
    SHOWN,
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
    unknown_version,
)
from clockwork.stepping import BACKGROUND_REST, SharedResult
from clockwork.units import Nanos, seconds
from clockwork.version import __version__

log = logging.getLogger("clockwork.grpc")

ResponseT = TypeVar("ResponseT")

SERVICE: Final = "inference.GRPCInferenceService"
"""As the protocol names it."""

MAX_STREAM_REQUESTS: Final = 64
"""Requests of one stream that are worked on at a time; the rest wait in the connection."""

FINAL_WANTED: Final = "triton_enable_empty_final_response"
FINAL: Final = "triton_final_response"
"""How a client of Triton's asks which response of a stream is a request's last, and how it is told: here each is."""


class CallFailedError(Exception):
    """A call that is no success."""

    def __init__(self, failed: Failure, code: grpc.StatusCode | None = None) -> None:
        """``code`` in place of the contract's."""
        super().__init__(failed.message)
        self.failure = failed
        self.code = code or grpc.StatusCode[failed.grpc]

    def forget_frames(self) -> None:
        """Let go of the frames that it was raised in: they have the message, which may be large."""
        self.__traceback__ = self.__context__ = self.__cause__ = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes into the trailer of the call."""
        return trailing(self.failure)


class Service:
    """One for all calls of a server."""

    def __init__(
        self,
        host: ControllerHost,
        client: LocalClient,
        peers: Peers,
        is_serving: Callable[[], bool],
        clock: Clock | None = None,
    ) -> None:
        """Inferences are asked by the connection's client, all else by ``client``.

        Args:
            host: the controller, on this event loop.
            client: one of ``host``, not of a connection.
            peers: the clients of connections.
            is_serving: says whether start-up is over.
            clock: for the time that a request has waited.
        """
        self._client = client
        self._peers = peers
        self._is_serving = is_serving
        self._is_ready = host.is_ready
        self._reception = host.reception
        self._allocate = None if host.arena is None else host.arena.allocate
        self._clock = clock or MonotonicClock()
        self._describe = host.description
        self._stepper = host.stepper
        self._all_statistics: SharedResult[bytes] = SharedResult(self._made_statistics)

    # --- the server --------------------------------------------------------------------------------------------------

    async def server_live(self, message: pb.ServerLiveRequest, call: ServicerContext) -> pb.ServerLiveResponse:
        """It answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, message: pb.ServerReadyRequest, call: ServicerContext) -> pb.ServerReadyResponse:
        """Whether a worker serves."""
        return pb.ServerReadyResponse(ready=self._is_ready(None))

    async def server_metadata(
        self, message: pb.ServerMetadataRequest, call: ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**server_metadata(__version__))

    # --- models ------------------------------------------------------------------------------------------------------

    async def model_ready(self, message: pb.ModelReadyRequest, call: ServicerContext) -> pb.ModelReadyResponse:
        """Whether a device could serve the model now; no model is ready while the server starts up."""
        _check_version(message.name, message.version)
        return pb.ModelReadyResponse(ready=self._is_ready(message.name))

    async def model_metadata(self, message: pb.ModelMetadataRequest, call: ServicerContext) -> pb.ModelMetadataResponse:
        """Inputs and outputs of a model."""
        return pb.ModelMetadataResponse(**model_metadata(await self._model(message)))

    async def model_config(self, message: pb.ModelConfigRequest, call: ServicerContext) -> pb.ModelConfigResponse:
        """A model as Triton would configure it."""
        return pb.ModelConfigResponse(config=pb.ModelConfig(**model_config(await self._model(message))))

    async def model_statistics(
        self, message: pb.ModelStatisticsRequest, call: ServicerContext
    ) -> pb.ModelStatisticsResponse | bytes:
        """What became of the requests for a model, or for each; encoded, if it is for each."""
        _check_version(message.name, message.version)
        if not message.name:
            return await self._all_statistics.get()
        found = self._describe().status_of(message.name)
        if found is None:
            raise _no_model(message.name)
        statistics = pb.ModelStatistics(**model_statistics(found, monotonic_epoch()))
        return pb.ModelStatisticsResponse(model_stats=[statistics])

    async def _made_statistics(self) -> bytes:
        epoch = monotonic_epoch()
        entries = (model_statistics(model, epoch) for model in self._describe().statuses())
        return await self._stepper.run(encoded_list(_statistics_of, entries), rest=BACKGROUND_REST)

    async def repository_index(self, message: pb.RepositoryIndexRequest, call: ServicerContext) -> bytes:
        """Every model and its state, encoded."""
        said = self._describe()
        index = repository_index(
            said.models(), said.broken, said.is_ready, said.stage, self._is_serving(), message.ready
        )
        return await self._stepper.run(encoded_list(_index_of, index))

    async def repository_model_load(
        self, message: pb.RepositoryModelLoadRequest, call: ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model on every worker while the server starts up; its name is a path under the model roots."""
        if message.parameters:
            text = (
                f"the parameters {', '.join(sorted(message.parameters))} are not supported; a model's file says it all"
            )
            raise CallFailedError(failure(Status.INVALID_REQUEST, text))
        request = LoadModelRequest(self._client.next_id(), message.model_name)
        response, _ = await self._ask(request, LoadModelResponse)
        if response.status != Status.SUCCESS:
            raise CallFailedError(failure(response.status, response.message))
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, message: pb.RepositoryModelUnloadRequest, call: ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """There is no such thing."""
        text = (
            f"model {message.model_name!r} stays: models are served until the server ends; to free its memory, evict it"
        )
        raise CallFailedError(failure(Status.INVALID_REQUEST, text), grpc.StatusCode.UNIMPLEMENTED)

    # --- inference ---------------------------------------------------------------------------------------------------

    async def model_infer(self, data: bytes, call: ServicerContext) -> bytes:
        """Infer once; a call that is cancelled frees its place."""
        now = self._clock.now()
        arrived = ARRIVED.get(now)
        limit = _limit(call, now - arrived)
        large = len(data) >= MIN_SPLIT_BYTES
        # A small message costs less to parse than to look into first; its model would tell nothing but an SLO.
        model = model_name(data) if large else ""
        if (shed := self._reception.refuses(model, arrived, limit, large=large)) is not None:
            status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
            raise CallFailedError(failure(status, shed.message, None, shed.retry_after))
        message, raw = parsed(data)
        return await self._infer(message, raw, limit, arrived, self._peers.client(call.peer()))

    async def model_stream_infer(self, messages: AsyncIterator[bytes], call: ServicerContext) -> AsyncIterator[bytes]:
        """Infer once for each message of the stream; several at a time, answered in their order."""
        asked: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        tasks: dict[asyncio.Task[bytes], None] = {}
        room = asyncio.Semaphore(MAX_STREAM_REQUESTS)
        client = self._peers.client(call.peer())

        async def read() -> None:
            try:
                async for message in messages:
                    await room.acquire()
                    infer = self._infer_in_stream(message, _limit(call, 0), self._clock.now(), client)
                    task = asyncio.ensure_future(infer)
                    tasks[task] = None
                    asked.put_nowait(task)
            finally:
                asked.put_nowait(None)

        reader = asyncio.ensure_future(read())
        try:
            while (task := await asked.get()) is not None:
                yield await task
                del tasks[task]
                room.release()
            await reader
        finally:
            for unfinished in (reader, *tasks):
                unfinished.cancel()

    async def _infer_in_stream(self, data: bytes, limit: Nanos | None, arrived: Nanos, client: LocalClient) -> bytes:
        message = pb.ModelInferRequest()
        try:
            message, raw = parsed(data)
            final = FINAL_WANTED in message.parameters and message.parameters[FINAL_WANTED].bool_param
            more = {FINAL: True} if final else NO_PARAMETERS
            return in_stream(await self._infer(message, raw, limit, arrived, client, more))
        except CallFailedError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - logged, and the stream goes on
            failed = unforeseen(error)
        failed.forget_frames()
        told = pb.ModelInferResponse(model_name=message.model_name, id=message.id)
        for key, value in failed.metadata():
            told.parameters[key.removeprefix("clockwork-").replace("-", "_")].string_param = value
        refused: bytes = pb.ModelStreamInferResponse(error_message=str(failed), infer_response=told).SerializeToString()
        return refused

    async def _infer(
        self,
        message: pb.ModelInferRequest,
        raw: Sequence[Any],
        limit: Nanos | None,
        arrived: Nanos,
        client: LocalClient,
        more: Mapping[str, Any] = NO_PARAMETERS,
    ) -> bytes:
        _check_version(message.model_name, message.model_version)
        try:
            request = request_of(message, raw, client.next_id(), limit)
            if not raw or sum(map(len, raw)) >= MIN_SPLIT_BYTES:  # else there is little to save
                refused = client.refuse_early(request)
                if refused is not None:
                    raise CallFailedError(failure_of(refused))
            request, payload = await self._stepper.run(with_payload(message, raw, request, self._allocate))
        except InvalidRequestError as error:
            raise CallFailedError(failure(Status.INVALID_REQUEST, str(error))) from None
        response, answer = await self._ask(request, InferResponse, payload, client, arrived)
        if response.status == Status.SUCCESS:
            self._reception.note_slo(message.model_name, request.slo)
        else:
            raise CallFailedError(failure_of(response))
        return response_of(message, response, answer, more)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _model(self, message: Any) -> ModelSummary:
        _check_version(message.name, message.version)
        if self._is_serving():
            found = self._describe().summary_of(message.name)
        else:
            response, _ = await self._ask(ListModelsRequest(self._client.next_id()), ListModelsResponse)
            if response.status != Status.SUCCESS:
                raise CallFailedError(failure(response.status, response.message))
            found = next((model for model in response.models if model.name == message.name), None)
        if found is None:
            raise _no_model(message.name)
        return found

    async def _ask(
        self,
        request: Request,
        expected: type[ResponseT],
        payload: Any = b"",
        client: LocalClient | None = None,
        arrival: Nanos | None = None,
    ) -> tuple[ResponseT, Any]:
        try:
            response, answer = await (client or self._client).ask(request, payload, arrival)
        except ConnectionLostError as error:
            raise CallFailedError(failure(Status.SHUTTING_DOWN, str(error))) from None
        if isinstance(response, expected):
            return response, answer
        assert isinstance(response, ErrorResponse), response
        raise CallFailedError(failure(response.status, response.message))


def decode(kind: Any, data: bytes) -> Any:
    """A message of class ``kind`` that a client has sent.

    Raises:
        CallFailedError: it is none, or too long to be parsed.
    """
    try:
        check_question(data, kind.DESCRIPTOR.name)
        return kind.FromString(data)
    except InvalidRequestError as error:
        raise CallFailedError(failure(Status.INVALID_REQUEST, str(error))) from None
    except DecodeError:
        raise _undecodable(data, kind) from None


def parsed(data: bytes) -> tuple[pb.ModelInferRequest, Sequence[Any]]:
    """See `parse`; the message is measured first.

    Raises:
        CallFailedError: the bytes are no ModelInferRequest, or parsing them would take too long.
    """
    try:
        check_infer(data)
        return parse(data)
    except InvalidRequestError as error:
        raise CallFailedError(failure(Status.INVALID_REQUEST, str(error))) from None
    except DecodeError:
        raise _undecodable(data, pb.ModelInferRequest) from None


def _undecodable(data: bytes, kind: Any) -> CallFailedError:
    text = f"the {len(data)} bytes are no {kind.DESCRIPTOR.name}"
    return CallFailedError(failure(Status.INVALID_REQUEST, text))


def _statistics_of(entries: list[Any]) -> Any:
    return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(**it) for it in entries])


def _index_of(entries: list[Any]) -> Any:
    return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**it) for it in entries])


def unforeseen(error: Exception) -> CallFailedError:
    """What a client is told of a defect: nothing; the log has it."""
    log.error("a call failed that should not have", exc_info=error)
    return CallFailedError(failure(Status.ERROR, "the server failed; its log says why"))


def _no_model(name: str) -> CallFailedError:
    return CallFailedError(failure(Status.UNKNOWN_MODEL, f"no model {name[:SHOWN]!r} is served"))


def _check_version(model: str, version: str) -> None:
    if failed := unknown_version(model, version):
        raise CallFailedError(failed)


def _limit(call: ServicerContext, waited: Nanos) -> Nanos | None:
    """The time from a request's arrival, ``waited`` ago, to the deadline of its call; None: it has none."""
    left = call.time_remaining()
    return None if left is None else max(1, seconds(min(left, MAX_REMAINING)) + waited)
