"""Sends the two long responses of the native protocol in steps: the server's status and the list of models.

Each step describes and encodes one model. A response is the concatenation of these encodings.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import msgspec

from clockwork.controller.description import Description
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import ErrorResponse, ListModelsResponse, ModelSummary, StatusResponse
from clockwork.messages.status import Status
from clockwork.net.connection import Connection
from clockwork.stepping import BACKGROUND_REST, SharedResult, Stepper
from clockwork.steps import Steps
from clockwork.wire.codec import encode

MAX_WAITING: Final = 256
"""Limit of the long responses that are built at the same time. Further status requests are refused."""

SHORT_LIST: Final = 64
"""A list with at most this many models is sent at once, without steps."""


log = logging.getLogger("clockwork.controller")


class LongResponses:
    """Answers status requests and sends lists of models. Use this object on one running event loop."""

    def __init__(self, describe: Callable[[], Description], stepper: Stepper) -> None:
        """``describe`` returns a description of the server's current state."""
        self._describe = describe
        self._stepper = stepper
        self._server: SharedResult[msgspec.Raw] = SharedResult(self._encoded_server)
        self._listed: tuple[tuple[ModelSummary, ...], msgspec.Raw] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def status(self, connection: Connection, request_id: int) -> None:
        """Answer a StatusRequest."""
        self._begin(connection, request_id, self._send_status(connection, request_id))

    def models(self, connection: Connection, response: ListModelsResponse) -> None:
        """Send a list of models."""
        if len(response.models) <= SHORT_LIST:
            connection.send(response)
        else:
            self._begin(connection, response.id, self._send_models(connection, response))

    def close(self) -> None:
        """Cancel the responses that are being built."""
        for task in self._tasks:
            task.cancel()

    def _begin(self, connection: Connection, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_WAITING:
            work.close()
            text = f"{MAX_WAITING} status requests are in progress, which is the limit; retry later"
            connection.send(ErrorResponse(request_id, Status.SKIPPED_BY_CONTROLLER, text))
            return
        task = asyncio.ensure_future(_send_or_fail(connection, request_id, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_status(self, connection: Connection, request_id: int) -> None:
        server: Any = await self._server.get()
        connection.send(StatusResponse(request_id, server))

    async def _encoded_server(self) -> msgspec.Raw:
        return await self._stepper.run(self._steps_to_server(), rest=BACKGROUND_REST)

    def _steps_to_server(self) -> Steps[msgspec.Raw]:
        description = self._describe()
        models: Any = yield from _encoded(description.statuses())
        return msgspec.Raw(encode(description.server_with(models)))

    async def _send_models(self, connection: Connection, response: ListModelsResponse) -> None:
        if self._listed is None or self._listed[0] is not response.models:
            models = await self._stepper.run(_encoded(iter(response.models)))
            self._listed = response.models, msgspec.Raw(encode(models))
        listed: Any = self._listed[1]
        connection.send(ListModelsResponse(response.id, response.status, response.message, listed))


async def _send_or_fail(connection: Connection, request_id: int, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``. If ``work`` fails, send an error to the client."""
    try:
        await work
    except InvalidRequestError as error:  # the response is too long for a frame
        connection.send(ErrorResponse(request_id, Status.ERROR, f"the response cannot be sent: {error}"))
    except Exception:
        log.exception("a status request or a list of models failed")
        connection.send(ErrorResponse(request_id, Status.ERROR, "the server failed; see its log"))


def _encoded(described: Iterator[Any]) -> Steps[tuple[msgspec.Raw, ...]]:
    """Encode each object separately, with one object per step."""
    encoded = []
    for description in described:
        encoded.append(msgspec.Raw(encode(description)))
        yield
    return tuple(encoded)
