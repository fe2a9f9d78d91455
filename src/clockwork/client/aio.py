"""The native client for asyncio.

A client has one connection, on which any number of calls can wait for responses. While the connection's send buffer is
full, new calls wait in order. When a call is cancelled, the client also cancels its request on the server. When the
connection ends, every outstanding call raises `ConnectionLostError`. The client does not send such requests again,
because it cannot know whether the server has executed them.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Final, TypeVar

from numpy.typing import ArrayLike

from clockwork.arrays import to_payload
from clockwork.client.recorded import RecordedRequests
from clockwork.client.result import InferenceResult
from clockwork.client.status_errors import error_for_status
from clockwork.errors import ConnectionLostError, InvalidRequestError, ProtocolError
from clockwork.messages.link import ROLE_CLIENT, Hello
from clockwork.messages.requests import (
    CancelRequest,
    ErrorResponse,
    EvictRequest,
    EvictResponse,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelSummary,
    PromoteRequest,
    PromoteResponse,
    Request,
    Response,
    ServerStatus,
    ShadowRequest,
    ShadowResponse,
    StatusRequest,
    StatusResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.net.address import CLIENT_PORT, parse_address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.units import Nanos, as_seconds, seconds
from clockwork.version import __version__
from clockwork.wire.codec import decode_response

ResponseT = TypeVar("ResponseT")

CLOSED: Final = "the client is closed; make its calls inside the with block, or open a new client"
"""Error message of a call that is made after `AsyncClient.close`."""

TIMER_RESOLUTION: Final = 0.001
"""Time in seconds that is added to a retry time.

uvloop's timers have a resolution of one millisecond, and the server refuses a retry that is too early.
"""


class AsyncClient(RecordedRequests):
    """A connection to a controller.

    Example::

        async with AsyncClient("127.0.0.1:12346") as client:
            result = await client.model("resnet50").infer({"data": image}, slo=0.1)
    """

    def __init__(
        self,
        address: str = f"127.0.0.1:{CLIENT_PORT}",
        *,
        connect_timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
        token: str = "",
    ) -> None:
        """Create a client; `connect` opens its connection.

        Args:
            address: the controller's address as ``HOST:PORT``.
            connect_timeout: longest time to wait for the connection, in seconds.
            tls: settings of an encrypted connection, for example ``ssl.create_default_context(cafile=...)``.
            token: authenticates the client.

        Raises:
            InvalidRequestError: ``address`` is not a valid address.
        """
        self._address = parse_address(address, CLIENT_PORT)
        self._connect_timeout = connect_timeout
        self._tls, self._token = tls, token
        self._connection: Connection | None = None
        self._waiting: dict[int, asyncio.Future[tuple[Response, Any]]] = {}
        self._last_id = 0
        self._lost = ""
        self._closed = False
        self._turn = asyncio.Lock()  #: the first call that waits for a writable connection holds this lock
        self._writable = asyncio.Event()  #: set when the connection is writable again, and when it has ended

    async def connect(self) -> None:
        """Connect to the controller.

        Raises:
            ConnectionLostError: the controller cannot be reached, or refuses the connection.
        """
        self._closed = False
        self._connection = await dial(
            self._address,
            Hello(ROLE_CLIENT, "", f"clockwork {__version__}", self._token),
            decode=decode_response,
            on_message=self._on_message,
            on_closed=self._on_closed,
            on_writable=self._on_writable,
            timeout=self._connect_timeout,
            tls=self._tls,
        )

    async def close(self) -> None:
        """Close the connection. Outstanding calls and later calls raise `ConnectionLostError`."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("the client has finished")
            await connection.closed  # with TLS, closing takes some turns of the event loop

    async def __aenter__(self) -> "AsyncClient":
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def model(self, name: str, version: str = "") -> "AsyncModel":
        """Return a handle for a model, without contacting the server.

        ``version`` is the number or a label of a version. If ``version`` is empty, the server uses the default version.
        """
        return AsyncModel(self, name, version)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str = "",
        slo: float | None = None,
        slo_factor: float | None = None,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        retries: int = 0,
        request_id: str = "",
    ) -> InferenceResult:
        """Send a request to a model and return its outputs.

        Args:
            model: name of the model.
            inputs: an array for each input of the model. The shapes include the batch dimension.
            version: number or label of a version; empty for the default version.
            slo: longest acceptable latency, in seconds after the request's arrival. Without an SLO, the server's
                default applies.
            slo_factor: the SLO as a multiple of the model's execution time at batch size 1.
            outputs: names of the outputs to return; empty for all outputs.
            timeout: longest time to wait for the response, in seconds.
            retries: largest number of times that a refused request is sent again, each time at the retry time in the
                response.
            request_id: the id under which the server records the request; empty: the server chooses an id.

        Raises:
            InvalidRequestError: an input has a wrong name, type or shape, or ``slo`` is not positive.
            UnknownModelError: the server does not serve the model.
            RequestRefusedError: the request would have been late, or the server is full.
            RequestTimeoutError: the deadline passed before the request was executed.
            InitializingError: the server is starting.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
            TimeoutError: ``timeout`` has passed.
        """
        specs: list[TensorSpec] = []
        buffers: list[Any] = []
        for name, array in inputs.items():
            datatype, shape, buffer = to_payload(array)
            specs.append(TensorSpec(name, datatype, shape, memoryview(buffer).nbytes))
            buffers.append(buffer)
        slo_ns = None if slo is None else _nanos(slo)
        async with asyncio.timeout(timeout) if timeout is not None else nullcontext():
            while True:
                request = InferRequest(
                    id=self._id(),
                    model=model,
                    inputs=tuple(specs),
                    slo=slo_ns,
                    slo_factor=slo_factor,
                    outputs=tuple(outputs),
                    version=version,
                    request_id=request_id,
                )
                response, payload = await self._call(request, InferResponse, buffers)
                if response.status == Status.SUCCESS:
                    return InferenceResult(model, response, payload)
                if response.retry_after is None or retries <= 0:
                    raise error_for_status(
                        response.status,
                        response.message,
                        response.predicted,
                        response.retry_after,
                        response.request_id,
                    )
                retries -= 1
                await asyncio.sleep(as_seconds(response.retry_after) + TIMER_RESOLUTION)

    async def ask(
        self,
        model: str,
        inputs: tuple[TensorSpec, ...],
        buffers: Sequence[Any] = (),
        *,
        slo_ns: Nanos | None = None,
        slo_factor: float | None = None,
        generated: bool = False,
    ) -> InferResponse:
        """Send a request with encoded inputs, and return the response. Load tests use this method.

        The response is returned whatever its status is. If ``generated`` is true, ``buffers`` must be empty, and the
        worker generates the inputs.

        Raises:
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        request = InferRequest(
            id=self._id(), model=model, inputs=inputs, slo=slo_ns, slo_factor=slo_factor, generated=generated
        )
        response, _ = await self._call(request, InferResponse, buffers)
        return response

    async def load_model(self, path: str, copies: int = 1, name: str = "") -> list[str]:
        """Load a model on every worker, and return the names of its copies.

        While the server serves, models can only be loaded in the control mode ``explicit``. ``path`` is relative to the
        workers' model roots. The path names a ``.onnx`` or ``.pt2`` file, or a directory that contains such a file, for
        example as ``VERSION/model.onnx``.

        Raises:
            InvalidRequestError: the model cannot be loaded, or the server does not load models while it serves.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        if not -(2**31) < copies < 2**31:
            raise InvalidRequestError(f"copies is {copies}; the server does not accept that many")
        request = LoadModelRequest(self._id(), path, name, copies)
        response, _ = await self._call(request, LoadModelResponse)
        if response.status != Status.SUCCESS:
            raise error_for_status(response.status, response.message)
        return list(response.models)

    async def load(self, name: str, path: str = "", *, keep: bool = False, wait: bool = True) -> list[str]:
        """Load a model while the server serves, or replace its versions. Return a list with the model's name.

        The server must run in the control mode ``explicit``. If the load fails, the earlier versions continue to serve.

        Args:
            name: name of the model; empty: the name is derived from ``path``.
            path: path of the model below the workers' model roots. If ``path`` is empty, the model comes from the model
                repository, or from the path of its last load.
            keep: whether the model's other versions stay in service.
            wait: whether to wait until the model is ready.

        Raises:
            InvalidRequestError: the model cannot be loaded.
            InitializingError: the server is starting.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        request = LoadModelRequest(self._id(), path, name, keep=keep, wait=wait)
        response, _ = await self._call(request, LoadModelResponse)
        _check(response)
        return list(response.models)

    async def unload(self, name: str, version: str = "", *, wait: bool = True) -> list[str]:
        """Unload a model, or one of its versions, and return the numbers of the unloaded versions.

        Requests that were admitted are finished first. If ``wait`` is true, the call returns when the model's memory
        is free.

        Raises:
            UnknownModelError: the server does not serve the model or the version.
            InvalidRequestError: the server does not run in the control mode ``explicit``.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        response, _ = await self._call(UnloadModelRequest(self._id(), name, version, wait), UnloadModelResponse)
        _check(response)
        return list(response.versions)

    async def promote(self, name: str, version: str, label: str = "") -> None:
        """Make a version the default of its model. If ``label`` is not empty, give the version this label instead.

        Raises:
            UnknownModelError: the server does not serve the model.
            InvalidRequestError: the version is not ready, or the label is invalid.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        response, _ = await self._call(PromoteRequest(self._id(), name, version, label), PromoteResponse)
        _check(response)

    async def shadow(self, name: str, version: str = "", share: float = 1.0) -> None:
        """Let a version execute copies of a share of the model's requests in idle time.

        Without a version, end the model's shadow.

        ``share`` is more than 0 and at most 1. The server compares the outputs of the copies with the outputs of the
        live requests. `status` contains the comparison.

        Raises:
            UnknownModelError: the server does not know the model.
            InvalidRequestError: the version is unknown or is the default version, the share is out of range, or the
                model has no shadow to end.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        response, _ = await self._call(ShadowRequest(self._id(), name, version, share), ShadowResponse)
        _check(response)

    async def ls(self) -> list[ModelSummary]:
        """Return the served models, sorted by name. While the server starts, the call waits for up to 10 s by default.

        Raises:
            InitializingError: the server is still starting.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        response, _ = await self._call(ListModelsRequest(self._id()), ListModelsResponse)
        if response.status != Status.SUCCESS:
            raise error_for_status(response.status, response.message)
        return list(response.models)

    async def evict(self, model: str, version: str = "") -> int:
        """Evict the model's weights from all devices, and return the number of devices.

        The model's next request must wait until its weights are loaded again.

        Raises:
            UnknownModelError: the server does not serve the model.
            InitializingError: the server is starting.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        response, _ = await self._call(EvictRequest(self._id(), model, version), EvictResponse)
        if response.status != Status.SUCCESS:
            raise error_for_status(response.status, response.message)
        return response.devices

    async def status(self) -> ServerStatus:
        """Return the state of the server. The server answers this request in every stage.

        Raises:
            ConnectionLostError: the connection ended.
        """
        response, _ = await self._call(StatusRequest(self._id()), StatusResponse)
        return response.server

    def _id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _call(
        self,
        request: Request,
        expected: type[ResponseT],
        buffers: Sequence[Any] = (),
        timeout: float | None = None,
    ) -> tuple[ResponseT, Any]:
        async with asyncio.timeout(timeout) if timeout is not None else nullcontext():
            response, payload = await self._exchange(request, buffers)
        if isinstance(response, ErrorResponse):
            raise error_for_status(response.status, response.message)
        if not isinstance(response, expected):
            raise ProtocolError(f"the response to a {type(request).__name__} is a {type(response).__name__}")
        return response, payload

    async def _exchange(self, request: Request, buffers: Sequence[Any]) -> tuple[Response, Any]:
        connection = self._connection
        if connection is not None and (not connection.writable or self._turn.locked()):
            connection = await self._wait_until_writable()
        if connection is None:
            raise ConnectionLostError(self._why_not_connected())
        future: asyncio.Future[tuple[Response, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        try:
            connection.send(request, buffers)
            return await future
        except asyncio.CancelledError:
            if self._connection is connection and isinstance(request, InferRequest):
                connection.send(CancelRequest(request.id))
            raise
        finally:
            self._waiting.pop(request.id, None)

    def _why_not_connected(self) -> str:
        if self._closed:
            return CLOSED
        return self._lost or "the client is not connected; call connect() first"

    async def _wait_until_writable(self) -> Connection | None:
        """Wait until it is this call's turn and the connection is writable.

        Return the connection, or None if it has ended.
        """
        async with self._turn:
            while (connection := self._connection) is not None and not connection.writable:
                self._writable.clear()
                await self._writable.wait()
            return connection

    def _on_writable(self, connection: Connection, writable: bool) -> None:
        if writable:
            self._writable.set()

    def _on_message(self, connection: Connection, message: Response, payload: Any) -> None:
        future = self._waiting.get(message.id)
        if future is not None and not future.done():
            future.set_result((message, payload))

    def _on_closed(self, connection: Connection, reason: str) -> None:
        self._connection = None
        self._lost = f"the connection to {self._address} ended: {reason}"
        self._writable.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionLostError(self._lost))
        self._waiting.clear()


class AsyncModel:
    """A handle for a model on a server. `AsyncClient.model` creates such handles."""

    def __init__(self, client: AsyncClient, name: str, version: str = "") -> None:
        """Create a handle for a model. Programs call `AsyncClient.model` instead of this constructor."""
        self._client = client
        self.name = name
        self.version = version

    async def infer(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        slo: float | None = None,
        slo_factor: float | None = None,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        retries: int = 0,
        request_id: str = "",
    ) -> InferenceResult:
        """Send a request to the model. For the arguments, see `AsyncClient.infer`."""
        return await self._client.infer(
            self.name,
            inputs,
            version=self.version,
            slo=slo,
            slo_factor=slo_factor,
            outputs=outputs,
            timeout=timeout,
            retries=retries,
            request_id=request_id,
        )

    async def evict(self) -> int:
        """Evict the model's weights from all devices, and return the number of devices."""
        return await self._client.evict(self.name, self.version)


def _check(response: LoadModelResponse | UnloadModelResponse | PromoteResponse | ShadowResponse) -> None:
    if response.status != Status.SUCCESS:
        raise error_for_status(response.status, response.message)


def _nanos(slo: float) -> int:
    if not 0 < slo < float("inf"):
        raise InvalidRequestError(f"slo is {slo}; it must be a positive number of seconds")
    return seconds(min(slo, 1e9))
