"""The native client for synchronous code. The client runs an `AsyncClient` on an event loop in a separate thread.

The separate thread answers the server's heartbeats, even while the program computes. Several threads may share a
client. When Ctrl-C interrupts a call, the client cancels the request on the server.
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
from clockwork.messages.explanation import DEFAULT_LISTED, Explanation, RequestSummary
from clockwork.messages.requests import ModelSummary, ServerStatus
from clockwork.messages.timeline import DEFAULT_HORIZON, DEFAULT_LIMIT, DEFAULT_PAST, Timeline
from clockwork.net.address import CLIENT_PORT
from clockwork.units import as_seconds

T = TypeVar("T")


class Client:
    """A connection to a controller.

    ::

        with Client("127.0.0.1:12346") as client:
            result = client.model("resnet50").infer({"data": image}, slo=0.1)

    Each method has the same arguments and raises the same exceptions as the method of `AsyncClient` with that name.
    """

    def __init__(
        self,
        address: str = f"127.0.0.1:{CLIENT_PORT}",
        *,
        connect_timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
        token: str = "",
    ) -> None:
        """Connect to a controller. For the arguments, see `AsyncClient`.

        Raises:
            InvalidRequestError: ``address`` is not a valid address.
            ConnectionLostError: the controller cannot be reached, or refuses the connection.
        """
        self._client = AsyncClient(address, connect_timeout=connect_timeout, tls=tls, token=token)
        self._loop = uvloop.new_event_loop()
        self._closed = False
        self._scheduling = threading.Lock()  #: prevents new calls after a thread has set `_closed`
        self._thread = threading.Thread(target=self._loop.run_forever, name="clockwork-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.connect())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. Outstanding calls of other threads, and later calls, raise `ConnectionLostError`."""
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

    def model(self, name: str, version: str = "") -> "Model":
        """Return a handle for a model, without contacting the server.

        ``version`` is the number or a label of a version. If ``version`` is empty, the server uses the default version.
        """
        return Model(self, name, version)

    def infer(
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
        """Send a request and wait for its outputs. For the arguments, see `AsyncClient.infer`."""
        call = self._client.infer(
            model,
            inputs,
            version=version,
            slo=slo,
            slo_factor=slo_factor,
            outputs=outputs,
            timeout=timeout,
            retries=retries,
            request_id=request_id,
        )
        return self._run(call)

    def load_model(self, path: str, copies: int = 1, name: str = "") -> list[str]:
        """Load a model on every worker. For the arguments, see `AsyncClient.load_model`."""
        return self._run(self._client.load_model(path, copies, name))

    def load(self, name: str, path: str = "", *, keep: bool = False, wait: bool = True) -> list[str]:
        """Load a model while the server serves. For the arguments, see `AsyncClient.load`."""
        return self._run(self._client.load(name, path, keep=keep, wait=wait))

    def unload(self, name: str, version: str = "", *, wait: bool = True) -> list[str]:
        """Unload a model, or one of its versions, and return the numbers of the unloaded versions."""
        return self._run(self._client.unload(name, version, wait=wait))

    def promote(self, name: str, version: str, label: str = "") -> None:
        """Make a version the default of its model. If ``label`` is not empty, give the version this label instead."""
        self._run(self._client.promote(name, version, label))

    def shadow(self, name: str, version: str = "", share: float = 1.0) -> None:
        """Begin or end a shadow; see `AsyncClient.shadow`."""
        self._run(self._client.shadow(name, version, share))

    def recent_requests(self, outcome: str = "", model: str = "", limit: int = DEFAULT_LISTED) -> list[RequestSummary]:
        """Return the last answered requests. `AsyncClient.recent_requests` describes the arguments."""
        return self._run(self._client.recent_requests(outcome, model, limit))

    def timeline(
        self,
        after: int = 0,
        *,
        past: float = as_seconds(DEFAULT_PAST),
        horizon: float = as_seconds(DEFAULT_HORIZON),
        limit: int = DEFAULT_LIMIT,
    ) -> Timeline:
        """Return the timeline of the devices. `AsyncClient.timeline` describes the arguments."""
        return self._run(self._client.timeline(after, past=past, horizon=horizon, limit=limit))

    def explain(self, request_id: str) -> Explanation:
        """Return the explanation of an answered request. `AsyncClient.explain` describes it."""
        return self._run(self._client.explain(request_id))

    def ls(self) -> list[ModelSummary]:
        """Return the served models, sorted by name."""
        return self._run(self._client.ls())

    def evict(self, model: str, version: str = "") -> int:
        """Evict a model's weights from all devices, and return the number of devices."""
        return self._run(self._client.evict(model, version))

    def status(self) -> ServerStatus:
        """Return the state of the server."""
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
            raise ConnectionLostError(CLOSED) from None  # only `_finish` cancels a call while a thread waits for it
        except BaseException:
            future.cancel()  # cancels the call if it was interrupted, and does nothing if it has finished
            raise

    async def _finish(self) -> None:
        """Close the connection, and end all calls of other threads. Some of these calls may be waiting to retry."""
        await self._client.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class Model:
    """A handle for a model on a server. `Client.model` creates such handles."""

    def __init__(self, client: Client, name: str, version: str = "") -> None:
        """Create a handle for a model. Programs call `Client.model` instead of this constructor."""
        self._client = client
        self.name = name
        self.version = version

    def infer(
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
        """Send a request and wait for its outputs. For the arguments, see `AsyncClient.infer`."""
        return self._client.infer(
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

    def evict(self) -> int:
        """Evict the model's weights from all devices, and return the number of devices."""
        return self._client.evict(self.name, self.version)
