"""Implements a client in the controller's own process. The front ends use this client.

The controller treats a local client like a connection of the native protocol. Messages, checks and cancelling are the
same, but messages are not encoded.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from clockwork.controller.events import Respond
from clockwork.errors import ConnectionLostError
from clockwork.messages.requests import CancelRequest, InferRequest, InferResponse, Request, Response
from clockwork.tracing.trace import Trace
from clockwork.units import Nanos


class LocalClient:
    """Sends requests with ids from `next_id`. Call the methods on the controller's event loop."""

    def __init__(
        self,
        send: Callable[[Request, Any, Nanos | None], None],
        leave: Callable[[], None],
        check: Callable[[InferRequest], Respond | None],
    ) -> None:
        """`ControllerHost.local_client` calls this constructor."""
        self._send = send
        self._check = check
        self._leave = leave
        self._last_id = 0
        self._closed = False
        self._waiting: dict[int, asyncio.Future[tuple[Response, Any]]] = {}
        self.traces: Final[dict[int, Trace]] = {}  #: the traced requests that wait for their response, by id

    @property
    def waiting(self) -> int:
        """Number of requests that wait for their response."""
        return len(self._waiting)

    def next_id(self) -> int:
        """Return the id for the next request."""
        self._last_id += 1
        return self._last_id

    def refuse_early(self, request: InferRequest) -> InferResponse | None:
        """Return the refusal of a request with a wrong model, tensor name, datatype, shape or batch size, else None.

        A front end calls this method before it decodes the elements of inputs, so sizes in bytes are not checked. A
        refused request is counted, and must not be sent. A request that passes may still be refused later.
        """
        refused = self._check(request)
        if refused is None:
            return None
        assert isinstance(refused.response, InferResponse)
        return refused.response

    async def ask(self, request: Request, payload: Any = b"", arrival: Nanos | None = None) -> tuple[Response, Any]:
        """Send a request, and return the response and its payload (bytes-like or None).

        Cancelling the call cancels the request.

        ``arrival`` is the time when the request reached this host. The SLO counts from this time. None means now.

        Raises:
            ConnectionLostError: the controller has shut down.
        """
        if self._closed:
            raise ConnectionLostError("the controller is shutting down")
        future: asyncio.Future[tuple[Response, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        try:
            self._send(request, payload, arrival)
            return await future
        except asyncio.CancelledError:
            if isinstance(request, InferRequest) and not self._closed:
                self._send(CancelRequest(request.id), b"", None)
            raise
        finally:
            self._waiting.pop(request.id, None)
            if self.traces:
                self.traces.pop(request.id, None)

    def send(self, response: Response, payload: Sequence[Any] = ()) -> None:
        """Deliver a response. The controller calls this method."""
        future = self._waiting.get(response.id)
        if future is not None and not future.done():
            future.set_result((response, payload[0] if payload else None))

    def close(self) -> None:
        """Accept no more requests. Waiting requests fail with `ConnectionLostError`."""
        if self._closed:
            return
        self._closed = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionLostError("the controller is shutting down"))
        self._leave()
