"""Looks up versions in the model repositories, for native load requests that contain only a model name."""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from clockwork.controller.events import Respond
from clockwork.errors import ClockworkError, InvalidRequestError
from clockwork.host.model_repositories import ModelRepositories
from clockwork.messages.requests import LoadModelRequest, LoadModelResponse
from clockwork.messages.status import Status

MAX_WAITING: Final = 100
"""Largest number of loads whose versions are looked up at a time. Further loads are refused."""


class LoadsByName:
    """The loads whose versions are being looked up. Use this object on one running event loop."""

    def __init__(
        self,
        repositories: ModelRepositories,
        take_in: Callable[[int, LoadModelRequest], None],
        respond: Callable[[Respond], None],
    ) -> None:
        """``take_in`` is called with a load and its versions.

        ``respond`` is called with the response to a load that failed.
        """
        self._repositories = repositories
        self._take_in = take_in
        self._respond = respond
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, client_id: int, request: LoadModelRequest) -> bool:
        """If a load has only a name, begin to look up its versions and return True. For other loads, return False."""
        if request.path or request.versions or not self._repositories:
            return False
        if len(self._tasks) >= MAX_WAITING:
            text = f"{MAX_WAITING} loads by name are being searched, which is the limit; retry later"
            self._respond(Respond(client_id, LoadModelResponse(request.id, Status.SKIPPED_BY_CONTROLLER, text)))
            return True
        task = asyncio.ensure_future(self._search(client_id, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def close(self) -> None:
        """Cancel all lookups."""
        for task in self._tasks:
            task.cancel()

    async def _search(self, client_id: int, request: LoadModelRequest) -> None:
        try:
            versions = await self._repositories.resolve(request.name, {})
        except ClockworkError as error:
            wrong = isinstance(error, InvalidRequestError)
            status = Status.INVALID_REQUEST if wrong else Status.ERROR
            self._respond(Respond(client_id, LoadModelResponse(request.id, status, str(error))))
            return
        self._take_in(client_id, replace(request, versions=versions))
