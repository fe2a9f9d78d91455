"""The methods of ``GRPCInferenceService``.

A method gets a message and the call. The method calls `FrontEnd`, and returns the result as a message. If a method
raises an exception, the server ends the call with the status code, the message and the trailing metadata for that
exception.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from clockwork.access import Right
from clockwork.errors import InvalidRequestError
from clockwork.frontend import FrontEnd, ListFormat, failure_of_error
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.calls import Call
from clockwork.grpc_frontend.incoming import Message
from clockwork.grpc_frontend.infer import (
    NO_PARAMETERS,
    parameter_values,
    parse,
    request_of,
    requested_classes,
    response_of,
    with_payload,
)
from clockwork.grpc_frontend.metadata import context_of, header
from clockwork.grpc_frontend.raw_contents import MIN_SPLIT_BYTES, in_stream
from clockwork.grpc_frontend.replies import trailing
from clockwork.grpc_frontend.scanning import check_infer, check_other
from clockwork.grpc_frontend.tracing import traced
from clockwork.host.controller import ControllerHost
from clockwork.host.local_client import LocalClient
from clockwork.tracing.trace import Trace
from clockwork.units import Nanos
from clockwork.wire.frame import Allocate

log = logging.getLogger("clockwork.grpc")

SERVICE: Final = "inference.GRPCInferenceService"
"""The full name of the service in the Open Inference Protocol."""

_INFER: Final = f"{SERVICE}/ModelInfer"
_STREAM_INFER: Final = f"{SERVICE}/ModelStreamInfer"

MAX_STREAM_REQUESTS: Final = 64
"""Largest number of requests of one stream that are served at a time. Further requests wait in the connection."""

FINAL_WANTED: Final = "triton_enable_empty_final_response"
FINAL: Final = "triton_final_response"
"""`FINAL_WANTED` and `FINAL` are parameters of Triton's streams.

A request contains `FINAL_WANTED` if the client wants `FINAL` in the responses. `FINAL` marks the last response to a
request. Clockwork sends one response to each request, so every response is the last.
"""


def grpc_front_end(host: ControllerHost, *, ignore_timeout: bool = False) -> FrontEnd:
    """Return a front end that encodes lists as messages.

    A list is encoded in parts, and each part is an encoded message. protobuf reads the concatenated parts as one
    message with the entries of all parts.
    """
    return FrontEnd(
        host,
        statistics=ListFormat(_encode_statistics),
        index=ListFormat(_encode_index),
        ignore_timeout=ignore_timeout,
    )


class Service:
    """The implementation of the service. One object serves all calls of a server."""

    def __init__(self, front: FrontEnd, allocate: Allocate | None = None) -> None:
        """Create a service on the front end's event loop.

        ``front`` passes requests to the controller. ``allocate`` returns memory that a worker can read. If it is None,
        no memory is shared with workers.
        """
        self._front = front
        self._allocate = allocate
        self._reception = front.reception
        self._stepper = front.stepper

    # --- the server --------------------------------------------------------------------------------------------------

    async def server_live(self, message: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        """Report that the server is alive."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, message: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        """Return whether at least one model can be served now."""
        return pb.ServerReadyResponse(ready=self._front.is_ready())

    async def server_metadata(self, message: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:
        """Return the server's name, version and extensions."""
        return pb.ServerMetadataResponse(**self._front.server_metadata())

    async def log_settings(self, message: pb.LogSettingsRequest, call: Call) -> pb.LogSettingsResponse:
        """Return the settings of the log. If the request contains settings, change them first.

        A change needs the right ADMIN.
        """
        values = parameter_values(message.settings)
        if values:
            self._front.access.check(header(call, "authorization"), Right.ADMIN)
            values = self._front.change_log_settings(values)
        else:
            values = self._front.log_settings()
        return pb.LogSettingsResponse(settings={name: _setting(value) for name, value in values.items()})

    # --- models ------------------------------------------------------------------------------------------------------

    async def model_ready(self, message: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        """Return whether a device can serve the model now. No model is ready during start-up."""
        return pb.ModelReadyResponse(ready=self._front.is_model_ready(message.name, message.version))

    async def model_metadata(self, message: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        """Return a model's inputs and outputs."""
        metadata = await self._front.model_metadata(message.name, message.version)
        for tensor in metadata["inputs"]:
            tensor.pop("optional", None)  # the protocol's message has no such field; ModelConfig has one
        return pb.ModelMetadataResponse(**metadata)

    async def model_config(self, message: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        """Return a model's configuration in Triton's terms."""
        config = await self._front.model_config(message.name, message.version)
        return pb.ModelConfigResponse(config=pb.ModelConfig(**config))

    async def model_statistics(
        self, message: pb.ModelStatisticsRequest, call: Call
    ) -> pb.ModelStatisticsResponse | bytes:
        """Return the statistics of one version of a model, or of all its versions if the request names no version.

        If the request names no model, return the encoded statistics of all models.
        """
        if not message.name:
            return b"".join(await self._front.all_statistics())
        found = self._front.model_statistics(message.name, message.version)
        return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(**statistics) for statistics in found])

    async def repository_index(self, message: pb.RepositoryIndexRequest, call: Call) -> bytes:
        """Return the encoded list of all models and their states."""
        return b"".join(await self._front.repository_index(message.ready))

    async def repository_model_load(
        self, message: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model on every worker, or replace its versions.

        `clockwork.frontend.changing` describes the parameters.
        """
        await self._front.load(message.model_name, parameter_values(message.parameters), default_name="")
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, message: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model, or the version that the parameter ``version`` names."""
        await self._front.unload(message.model_name, parameter_values(message.parameters))
        return pb.RepositoryModelUnloadResponse()

    # --- inference ---------------------------------------------------------------------------------------------------

    async def model_infer(self, data: bytes | memoryview, call: Call) -> bytes:
        """Serve one inference request. If the client cancels the call, the request is cancelled too."""
        if self._front.tracer is None:
            return await self._infer_unary(data, call, None)
        with traced(self._front, call, _INFER, call.arrived) as trace:
            return await self._infer_unary(data, call, trace)

    async def _infer_unary(self, data: bytes | memoryview, call: Call, trace: Trace | None) -> bytes:
        message, raw = parsed(data)
        parent = "" if message.id else context_of(call)[0]
        return await self._infer(message, raw, call.timeout, call.arrived, call.client, parent, trace)

    async def model_stream_infer(self, messages: AsyncIterator[Message], call: Call) -> AsyncIterator[bytes]:
        """Serve one inference request for each message of the stream.

        Several requests are served at a time. The responses have the order of the requests.
        """
        responses: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        tasks: dict[asyncio.Task[bytes], None] = {}
        slots = asyncio.Semaphore(MAX_STREAM_REQUESTS)

        async def read() -> None:
            try:
                async for message in messages:
                    await slots.acquire()
                    infer = self._infer_in_stream(message.data, call, message.arrived)
                    task = asyncio.ensure_future(infer)
                    tasks[task] = None
                    responses.put_nowait(task)
            finally:
                responses.put_nowait(None)

        reader = asyncio.ensure_future(read())
        try:
            while (task := await responses.get()) is not None:
                yield await task
                del tasks[task]
                slots.release()
            await reader
        finally:
            for unfinished in (reader, *tasks):
                unfinished.cancel()

    async def _infer_in_stream(self, data: bytes | memoryview, call: Call, arrived: Nanos) -> bytes:
        message = pb.ModelInferRequest()
        limit = None if call.timeout is None else max(1, call.arrived + call.timeout - arrived)
        client, parent = call.client, context_of(call)[0]
        try:
            with traced(self._front, call, _STREAM_INFER, arrived) as trace:
                message, raw = parsed(data)
                final = FINAL_WANTED in message.parameters and message.parameters[FINAL_WANTED].bool_param
                more = {FINAL: True} if final else NO_PARAMETERS
                return in_stream(await self._infer(message, raw, limit, arrived, client, parent, trace, more))
        except Exception as error:  # noqa: BLE001 - the error of one request must not end the stream
            failure = failure_of_error(error, log)
        response = pb.ModelInferResponse(model_name=message.model_name, id=message.id)
        for key, value in trailing(failure):
            response.parameters[key.removeprefix("clockwork-").replace("-", "_")].string_param = value
        failed: bytes = pb.ModelStreamInferResponse(
            error_message=failure.message, infer_response=response
        ).SerializeToString()
        return failed

    async def _infer(
        self,
        message: pb.ModelInferRequest,
        raw: Sequence[Any],
        limit: Nanos | None,
        arrived: Nanos,
        client: LocalClient,
        parent: str,
        trace: Trace | None,
        more: Mapping[str, Any] = NO_PARAMETERS,
    ) -> bytes:
        self._front.check_version(message.model_name, message.model_version)
        front = self._front
        classes = requested_classes(message) if message.outputs else None
        name = self._reception.request_ids.choose(message.id, parent)
        request = request_of(message, raw, client.next_id(), limit, name, ignore_timeout=front.ignore_timeout)
        if not raw or sum(map(len, raw)) >= MIN_SPLIT_BYTES:  # decoding other requests takes little time
            front.check_early(client, request)
        batched = bool(classes) and (await front.model(request.model, request.version)).batchable
        request, payload = await self._stepper.run(with_payload(message, raw, request, self._allocate))
        response, outputs = await front.infer(client, request, payload, arrived, trace)
        self._reception.note_slo(request.model, request.slo, response.timing.total, version=request.version)
        if classes:
            response, outputs = await front.classify(response, outputs, classes, batched)
        return response_of(message, response, outputs, more)


def decode(kind: Any, data: bytes | memoryview, *, limited: bool = True) -> Any:
    """Decode a message of class ``kind`` that a client has sent.

    ``limited`` states whether the length of the message is limited. ``limited`` is false only for messages that may
    contain files.

    Raises:
        InvalidRequestError: the bytes are not a message of this class, or are too long.
    """
    if limited:
        check_other(data, kind.DESCRIPTOR.name)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise _undecodable(data, kind) from None


def parsed(data: bytes | memoryview) -> tuple[pb.ModelInferRequest, Sequence[Any]]:
    """Check the size of a ModelInferRequest, and return the result of `parse`.

    Raises:
        InvalidRequestError: the bytes are not a ModelInferRequest, or are too long.
    """
    check_infer(data)
    try:
        return parse(data)
    except DecodeError:
        raise _undecodable(data, pb.ModelInferRequest) from None


def _undecodable(data: bytes | memoryview, kind: Any) -> InvalidRequestError:
    return InvalidRequestError(f"message of {len(data)} bytes is not a valid {kind.DESCRIPTOR.name}")


def _encode_statistics(entries: list[Any]) -> bytes:
    statistics = [pb.ModelStatistics(**entry) for entry in entries]
    encoded: bytes = pb.ModelStatisticsResponse(model_stats=statistics).SerializeToString()
    return encoded


def _encode_index(entries: list[Any]) -> bytes:
    models = [pb.RepositoryIndexResponse.ModelIndex(**entry) for entry in entries]
    encoded: bytes = pb.RepositoryIndexResponse(models=models).SerializeToString()
    return encoded


def _setting(value: bool | int | str) -> pb.LogSettingsResponse.SettingValue:
    if isinstance(value, bool):
        return pb.LogSettingsResponse.SettingValue(bool_param=value)
    if isinstance(value, int):
        return pb.LogSettingsResponse.SettingValue(uint32_param=value)
    return pb.LogSettingsResponse.SettingValue(string_param=value)
