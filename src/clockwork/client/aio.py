"""The native client for asyncio.

Rules of the file: one connection, any number of calls outstanding on it; a call that it cannot take yet waits. One
that is cancelled or abandoned tells the server so, which frees its place there. When the connection ends, every
outstanding call raises `ConnectionLostError`; nothing is sent twice, for the client cannot know what became of it.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Final, TypeVar

from numpy.typing import ArrayLike

from clockwork import __version__
from clockwork.arrays import to_payload
from clockwork.client.failures import failure
from clockwork.client.result import InferenceResult
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
    Request,
    Response,
    ServerStatus,
    StatusRequest,
    StatusResponse,
)
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.net.address import CLIENT_PORT, parse_address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.units import Nanos, as_seconds, seconds
from clockwork.wire.codec import decode_response

ResponseT = TypeVar("ResponseT")

TIMER_RESOLUTION: Final = 0.001
"""Seconds; uvloop's timers count milliseconds, and whoever comes back too early is refused again."""


class AsyncClient:
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
        """Nothing happens before `connect`; times are in seconds.

        ``tls`` encrypts, and says whom to trust (``ssl.create_default_context(cafile=...)``); ``token`` says who asks.

        Raises:
            InvalidRequestError: ``address`` is none.
        """
        self._address = parse_address(address, CLIENT_PORT)
        self._connect_timeout = connect_timeout
        self._tls, self._token = tls, token
        self._connection: Connection | None = None
        self._waiting: dict[int, asyncio.Future[tuple[Response, Any]]] = {}
        self._last_id = 0
        self._lost = ""
        self._turn = asyncio.Lock()  #: of those that wait until the connection takes more, in order
        self._room = asyncio.Event()  #: it does, or has ended

    async def connect(self) -> None:
        """Dial the controller.

        Raises:
            ConnectionLostError: it is not there, or refuses.
        """
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
        """Say goodbye; outstanding calls raise `ConnectionLostError`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("the client has finished")
            await connection.closed  # TLS takes a while to say goodbye, and needs the loop for it

    async def __aenter__(self) -> "AsyncClient":
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def model(self, name: str) -> "AsyncModel":
        """A handle on a model; the server is not asked."""
        return AsyncModel(self, name)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        slo: float | None = None,
        slo_factor: float | None = None,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        retries: int = 0,
    ) -> InferenceResult:
        """Infer.

        Shapes include the batch dimension. ``slo`` is the time in seconds, from the request's arrival, within which an
        answer is of use; ``slo_factor`` gives it as a multiple of the model's batch-1 time; the server has a default.
        ``outputs`` names the outputs wanted. ``timeout`` is how long to wait in any case.
        A request that is refused is asked again up to ``retries`` times, each time when the server said to come back.

        Raises:
            InvalidRequestError, UnknownModelError: the request is wrong.
            RequestRefusedError, RequestTimeoutError: no answer in time.
            InitializingError, ServerError, ConnectionLostError: the server.
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
                request = InferRequest(self._id(), model, tuple(specs), slo_ns, slo_factor, tuple(outputs))
                response, payload = await self._call(request, InferResponse, buffers)
                if response.status == Status.SUCCESS:
                    return InferenceResult(model, response, payload)
                if response.retry_after is None or retries <= 0:
                    raise failure(response.status, response.message, response.predicted, response.retry_after)
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
        """Infer with inputs as they go on the wire, for load tests; returns the response whatever its status.

        With ``generated`` there are no ``buffers``: the worker makes zeros of these shapes.

        Raises:
            ServerError, ConnectionLostError: there is no response.
        """
        request = InferRequest(self._id(), model, inputs, slo_ns, slo_factor, (), generated)
        response, _ = await self._call(request, InferResponse, buffers)
        return response

    async def load_model(self, path: str, copies: int = 1, name: str = "") -> list[str]:
        """Load a model on every worker while the server starts up; returns the names of its copies.

        ``path`` is relative to the workers' model roots: a ``.onnx`` file, or a directory ``NAME/VERSION/model.onnx``.

        Raises:
            InvalidRequestError: it cannot be loaded, or start-up is over.
            ServerError, ConnectionLostError: the server.
        """
        if not -(2**31) < copies < 2**31:
            raise InvalidRequestError(f"copies is {copies}; the server would not take that many")
        request = LoadModelRequest(self._id(), path, name, copies)
        response, _ = await self._call(request, LoadModelResponse)
        if response.status != Status.SUCCESS:
            raise failure(response.status, response.message)
        return list(response.models)

    async def ls(self) -> list[ModelSummary]:
        """The models that are served, by name; waits for the end of start-up, at most as long as the server lets it.

        Raises:
            InitializingError, ServerError, ConnectionLostError: the server.
        """
        response, _ = await self._call(ListModelsRequest(self._id()), ListModelsResponse)
        if response.status != Status.SUCCESS:
            raise failure(response.status, response.message)
        return list(response.models)

    async def evict(self, model: str) -> int:
        """Evict the model's weights from all devices; returns from how many. The next request starts cold.

        Raises:
            UnknownModelError, InitializingError, ServerError, ConnectionLostError: it cannot be.
        """
        response, _ = await self._call(EvictRequest(self._id(), model), EvictResponse)
        if response.status != Status.SUCCESS:
            raise failure(response.status, response.message)
        return response.devices

    async def status(self) -> ServerStatus:
        """What the server is doing; answered in every stage.

        Raises:
            ConnectionLostError: the server is gone.
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
            raise failure(response.status, response.message)
        if not isinstance(response, expected):
            raise ProtocolError(f"a {type(request).__name__} was answered with a {type(response).__name__}")
        return response, payload

    async def _exchange(self, request: Request, buffers: Sequence[Any]) -> tuple[Response, Any]:
        connection = self._connection
        if connection is not None and (not connection.writable or self._turn.locked()):
            connection = await self._wait_for_room()
        if connection is None:
            raise ConnectionLostError(self._lost or "the client is not connected: call connect() first")
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

    async def _wait_for_room(self) -> Connection | None:
        """Until it is this call's turn and the connection takes more; None if it has ended."""
        async with self._turn:
            while (connection := self._connection) is not None and not connection.writable:
                self._room.clear()
                await self._room.wait()
            return connection

    def _on_writable(self, connection: Connection, writable: bool) -> None:
        if writable:
            self._room.set()

    def _on_message(self, connection: Connection, message: Response, payload: Any) -> None:
        future = self._waiting.get(message.id)
        if future is not None and not future.done():
            future.set_result((message, payload))

    def _on_closed(self, connection: Connection, reason: str) -> None:
        self._connection = None
        self._lost = f"the connection to {self._address} ended: {reason}"
        self._room.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionLostError(self._lost))
        self._waiting.clear()


class AsyncModel:
    """A model on a server, by name."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        """See `AsyncClient.model`."""
        self._client = client
        self.name = name

    async def infer(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        slo: float | None = None,
        slo_factor: float | None = None,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        retries: int = 0,
    ) -> InferenceResult:
        """See `AsyncClient.infer`."""
        return await self._client.infer(
            self.name, inputs, slo=slo, slo_factor=slo_factor, outputs=outputs, timeout=timeout, retries=retries
        )

    async def evict(self) -> int:
        """See `AsyncClient.evict`."""
        return await self._client.evict(self.name)


def _nanos(slo: float) -> int:
    if not 0 < slo < float("inf"):
        raise InvalidRequestError(f"the slo is {slo} s; it must be a positive number of seconds")
    return seconds(min(slo, 1e9))
