"""The native client for ordinary code: an `AsyncClient` on an event loop in a separate thread.

The thread keeps the connection alive, and answers the server's heartbeats, while the caller computes. Any number of
threads may share a client. A call that is interrupted by Ctrl-C is cancelled on the server.
"""

import asyncio
import concurrent.futures
import ssl
import threading
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import uvloop
from numpy.typing import ArrayLike

from clockwork.client.aio import CLOSED, AsyncClient
from clockwork.client.result import InferenceResult
from clockwork.errors import ConnectionLostError
from clockwork.messages.requests import ModelSummary, ServerStatus
from clockwork.net.address import CLIENT_PORT

T = TypeVar("T")


class Client:
    """A connection to a controller.

    ::

        with Client("127.0.0.1:12346") as client:
            result = client.model("resnet50").infer({"data": image}, slo=0.1)

    The methods have the arguments and exceptions of those of `AsyncClient`.
    """

    def __init__(
        self,
        address: str = f"127.0.0.1:{CLIENT_PORT}",
        *,
        connect_timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
        token: str = "",
    ) -> None:
        """Connect to a controller; see `AsyncClient` for the arguments.

        Raises:
            InvalidRequestError: ``address`` is not a valid address.
            ConnectionLostError: the controller cannot be reached, or refuses the connection.
        """
        self._client = AsyncClient(address, connect_timeout=connect_timeout, tls=tls, token=token)
        self._loop = uvloop.new_event_loop()
        self._closed = False
        self._scheduling = threading.Lock()  #: no call is scheduled on the loop after `_closed` is set
        self._thread = threading.Thread(target=self._loop.run_forever, name="clockwork-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.connect())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; later calls, and outstanding ones of other threads, raise `ConnectionLostError`."""
        with self._scheduling:
            closed, self._closed = self._closed, True
        if not closed:
            asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def model(self, name: str) -> "Model":
        """Return a handle for a model; nothing is sent to the server."""
        return Model(self, name)

    def infer(
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
        """Send a request and wait for its outputs; see `AsyncClient.infer`."""
        call = self._client.infer(
            model, inputs, slo=slo, slo_factor=slo_factor, outputs=outputs, timeout=timeout, retries=retries
        )
        return self._run(call)

    def load_model(self, path: str, copies: int = 1, name: str = "") -> list[str]:
        """Load a model while the server starts; see `AsyncClient.load_model`."""
        return self._run(self._client.load_model(path, copies, name))

    def ls(self) -> list[ModelSummary]:
        """Return the served models; see `AsyncClient.ls`."""
        return self._run(self._client.ls())

    def evict(self, model: str) -> int:
        """Evict a model's weights from all devices; see `AsyncClient.evict`."""
        return self._run(self._client.evict(model))

    def status(self) -> ServerStatus:
        """Return the state of the server; see `AsyncClient.status`."""
        return self._run(self._client.status())

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        with self._scheduling:
            if self._closed:
                call.close()
                raise ConnectionLostError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ConnectionLostError(CLOSED) from None  # only `_finish` cancels a call that somebody waits for
        except BaseException:
            future.cancel()  # cancels an interrupted call; has no effect on a finished one
            raise

    async def _finish(self) -> None:
        """Close the connection, and end the calls of other threads, also those that wait for a retry time."""
        await self._client.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class Model:
    """A handle for a model on a server; made by `Client.model`."""

    def __init__(self, client: Client, name: str) -> None:
        """Make a handle; call the client's ``model`` instead."""
        self._client = client
        self.name = name

    def infer(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        slo: float | None = None,
        slo_factor: float | None = None,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        retries: int = 0,
    ) -> InferenceResult:
        """Send a request and wait for its outputs; see `AsyncClient.infer`."""
        return self._client.infer(
            self.name, inputs, slo=slo, slo_factor=slo_factor, outputs=outputs, timeout=timeout, retries=retries
        )

    def evict(self) -> int:
        """Evict the model's weights from all devices; see `AsyncClient.evict`."""
        return self._client.evict(self.name)
