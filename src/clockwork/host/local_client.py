"""A client in the controller's own process: how front ends ask.

It is to the controller what a connection of the native protocol is, without the bytes: the same messages, the same
checks, the same cancelling.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from clockwork.controller.events import Respond
from clockwork.errors import ConnectionLostError
from clockwork.messages.requests import CancelRequest, InferRequest, InferResponse, Request, Response
from clockwork.units import Nanos


class LocalClient:
    """Asks on the controller's event loop. Requests carry ids of `next_id`."""

    def __init__(
        self,
        say: Callable[[Request, Any, Nanos | None], None],
        leave: Callable[[], None],
        check: Callable[[InferRequest], Respond | None],
    ) -> None:
        """Made by `ControllerHost.local_client`."""
        self._say = say
        self._check = check
        self._leave = leave
        self._last_id = 0
        self._closed = False
        self._waiting: dict[int, asyncio.Future[tuple[Response, Any]]] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait for their response."""
        return len(self._waiting)

    def next_id(self) -> int:
        """For a request."""
        self._last_id += 1
        return self._last_id

    def refuse_early(self, request: InferRequest) -> InferResponse | None:
        """Return the refusal of a request whose model, names, datatypes, shapes or batch are wrong, or None.

        A front end calls this before it decodes elements, so sizes in bytes need not be known yet. A request that is
        refused here is counted, and must not be asked. Another request may still be refused later.
        """
        refused = self._check(request)
        if refused is None:
            return None
        assert isinstance(refused.response, InferResponse)
        return refused.response

    async def ask(self, request: Request, payload: Any = b"", arrival: Nanos | None = None) -> tuple[Response, Any]:
        """Return the response and its payload (bytes-like, or None). A call that is cancelled frees its place.

        ``arrival``: when the request reached this machine; its SLO counts from then. None: now.

        Raises:
            ConnectionLostError: the controller has closed.
        """
        if self._closed:
            raise ConnectionLostError("the controller is shutting down")
        future: asyncio.Future[tuple[Response, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        try:
            self._say(request, payload, arrival)
            return await future
        except asyncio.CancelledError:
            if isinstance(request, InferRequest) and not self._closed:
                self._say(CancelRequest(request.id), b"", None)
            raise
        finally:
            self._waiting.pop(request.id, None)

    def send(self, response: Response, payload: Sequence[Any] = ()) -> None:
        """The controller answers."""
        future = self._waiting.get(response.id)
        if future is not None and not future.done():
            future.set_result((response, payload[0] if payload else None))

    def close(self) -> None:
        """No more questions; those that wait get `ConnectionLostError`, and their places are free."""
        if self._closed:
            return
        self._closed = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionLostError("the controller is shutting down"))
        self._leave()
