"""Applies the changes that polls find in model repositories, with ordinary load and unload requests.

A poll reports a changed model once. While the model is being loaded, polls of other models continue.
"""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clockwork.controller.stage import Stage
from clockwork.errors import ClockworkError
from clockwork.host.log_events import event_fields
from clockwork.host.repository_watcher import RepositoryChanges, RepositoryWatcher
from clockwork.messages.requests import LoadModelRequest, LoadModelResponse, UnloadModelRequest, UnloadModelResponse
from clockwork.messages.status import Status
from clockwork.repository.models import RepositoryModel

if TYPE_CHECKING:
    from clockwork.host.controller import ControllerHost

STAGE_CHECK: Final = 0.1
"""Seconds between two checks of the stage while the server starts."""

log = logging.getLogger("clockwork.controller")


async def poll_repositories(host: "ControllerHost") -> None:
    """Load and unload models so that the served models match the repositories, until this coroutine is cancelled."""
    polling = _Polling(host)
    while True:
        if host.progress()[0] == Stage.SERVING.value:
            break
        await asyncio.sleep(STAGE_CHECK)
    polling.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        polling.close()


class _Polling:
    def __init__(self, host: "ControllerHost") -> None:
        self._host = host
        self._repositories = host.repositories
        self._client = host.local_client()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported: dict[Path, dict[str, str]] = {}  #: the logged faults of each repository

    def start(self) -> None:
        for directory, watcher in self._repositories.watchers.items():
            watcher.start(partial(self._changed, directory, watcher))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._client.close()

    def _changed(self, directory: Path, watcher: RepositoryWatcher, changes: RepositoryChanges) -> None:
        faults = {"": changes.error} if changes.error else dict(changes.problems)
        before = self._reported.get(directory, {})
        for name, reason in faults.items():
            if before.get(name) != reason:
                log.error("%s", reason, extra=event_fields("model_unreadable", model=name, reason=reason))
        self._reported[directory] = faults
        for model in (*changes.load, *changes.reload):
            self._begin(watcher, model.name, self._load(directory, model))
        for name in changes.unload:
            self._begin(watcher, name, self._unload(name))

    def _begin(self, watcher: RepositoryWatcher, name: str, work: Coroutine[Any, Any, bool]) -> None:
        async def act() -> None:
            succeeded = False
            try:
                succeeded = await work
            finally:
                watcher.finished(name, succeeded)

        task = asyncio.ensure_future(act())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, directory: Path, model: RepositoryModel) -> bool:
        """Serve the versions that a model's policy chooses; return whether they are served."""
        if model.contents is not None and self._repositories.take_loaded(model.name) == model.contents.fingerprint:
            return self._host.is_ready(model.name)  # start-up has loaded these files
        try:
            versions = self._repositories.versions_of(directory, model)
        except ClockworkError as error:
            log.error(
                "cannot load %s: %s",
                model.name,
                error,
                extra=event_fields("model_failed", model=model.name, reason=str(error)),
            )
            return False
        request = LoadModelRequest(self._client.next_id(), versions[0].path, model.name, versions=versions)
        response, _ = await self._client.ask(request)
        return isinstance(response, LoadModelResponse) and response.status == Status.SUCCESS

    async def _unload(self, name: str) -> bool:
        response, _ = await self._client.ask(UnloadModelRequest(self._client.next_id(), name))
        return isinstance(response, UnloadModelResponse) and response.status == Status.SUCCESS
