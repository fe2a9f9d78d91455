"""Reads a model repository in threads of low priority, and polls it for changes.

A file system may be slow or may not answer at all, so the event loop never uses one. A thread that computes holds the
interpreter's lock, so it pauses after each burst of work. One thread polls and lists the repository. A second thread
finds single models, so that a load does not wait for the end of a poll.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from clockwork.clock import Clock, MonotonicClock, monotonic_epoch
from clockwork.errors import ClockworkError, InvalidRequestError, RequestRefusedError
from clockwork.host.process_tuning import begin_background_thread
from clockwork.repository.contents import Contents
from clockwork.repository.models import RepositoryModel, entries_by_name, find_model, list_in_steps, scan_in_steps
from clockwork.repository.polling import PollActions, Poller, Seen
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.text_format import Fields
from clockwork.stepping import SharedResult
from clockwork.steps import Steps
from clockwork.units import MILLISECOND, Nanos, seconds

MAX_FINDS: Final = 64
"""Limit of the calls of `RepositoryWatcher.find` that wait at a time. Further calls are refused."""

MAX_BURST: Final[Nanos] = 2 * MILLISECOND
"""Time after which a thread pauses. The thread finishes its current step before the pause."""

PAUSE: Final = 0.001
"""Pause in seconds between two bursts."""

TIMER_ERROR: Final = 0.002
"""Seconds by which an event loop's timer may fire early. A poll that begins too early cannot confirm that files stayed
unchanged.
"""

T = TypeVar("T")

log = logging.getLogger("clockwork.controller")


class RepositoryChanges(Struct, frozen=True):
    """The changes that a poll found: models to load, models to reload, and names of models to unload.

    - If a model has problems, its load fails, and the problems are the reason.
    - ``problems`` maps the names of models to the reasons why their directories cannot be read. These models are
      neither loaded nor unloaded.
    - ``error`` is the reason why the repository cannot be read, or empty. If there is an error, nothing changes.
    """

    load: tuple[RepositoryModel, ...] = ()
    reload: tuple[RepositoryModel, ...] = ()
    unload: tuple[str, ...] = ()
    problems: dict[str, str] = {}
    error: str = ""


class RepositoryWatcher:
    """Reads one repository. Use this object on one running event loop."""

    def __init__(self, root: Path, interval: float, links: LinkPolicy = NO_LINKS) -> None:
        """``interval`` is the number of seconds between two polls.

        A directory that has not changed for the same time counts as complete.
        """
        self._root = root
        self._interval = interval
        self._links = links
        self._clock: Clock = MonotonicClock()
        self._poller = Poller(seconds(interval))
        self._scans = ThreadPoolExecutor(1, "clockwork-repository", begin_background_thread)
        self._finds = ThreadPoolExecutor(1, "clockwork-model", begin_background_thread)
        self._waiting = 0
        self._listed = SharedResult(self._list)
        self._names = SharedResult(self._list_names)
        self._closing = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, on_changes: Callable[[RepositoryChanges], None]) -> None:
        """Poll from now on, and call ``on_changes`` on the loop after each poll.

        The caller must call `finished` at the end of each load, reload or unload. Until this call, no further action is
        chosen for that model.
        """
        self._task = asyncio.ensure_future(self._run(on_changes))

    def close(self) -> None:
        """Stop polling. Cancel the calls that wait, but do not wait for threads that are reading."""
        self._closing.set()
        if self._task is not None:
            self._task.cancel()
        for executor in (self._scans, self._finds):
            executor.shutdown(wait=False, cancel_futures=True)

    async def find(self, name: str, config: Fields | None = None) -> RepositoryModel:
        """Return a model, as `clockwork.repository.models.find_model` does.

        Raises:
            InvalidRequestError: the name is wrong, or the repository has no such model.
            RequestRefusedError: too many calls wait.
        """
        if self._waiting >= MAX_FINDS:
            raise RequestRefusedError(f"{MAX_FINDS} models are being looked up, which is the limit; retry later")
        self._waiting += 1
        try:
            find = partial(find_model, self._root, name, self._links, config)
            return await asyncio.get_running_loop().run_in_executor(self._finds, find)
        finally:
            self._waiting -= 1

    async def names(self) -> list[str]:
        """Return the sorted names of all models, without reading the models.

        Raises:
            InvalidRequestError: the repository cannot be read, or has too many entries.
        """
        return await self._names.get()

    async def models(self) -> list[RepositoryModel]:
        """Return all models, ordered by name. Concurrent callers share one reading of the repository.

        The call takes about 0.5 ms per model. A call of `names` takes a hundredth of this time.

        Raises:
            InvalidRequestError: the repository cannot be read, or has too many entries.
        """
        return await self._listed.get()

    async def poll(self) -> RepositoryChanges:
        """Poll the repository once. `start` polls the repository at intervals."""
        began, epoch = self._clock.now(), monotonic_epoch()
        try:
            found = await self._in_steps(scan_in_steps(self._root, self._links))
        except InvalidRequestError as error:
            return RepositoryChanges(error=str(error))
        seen = {name: _seen(epoch + began, contents) for name, contents in found.items()}
        actions = self._poller.poll(began, self._clock.now(), seen)
        problems = {name: text for name, text in found.items() if isinstance(text, str)}
        return await self._read(actions, found, problems)

    def finished(self, name: str, succeeded: bool) -> None:
        """Record the end of a load, reload or unload that a poll chose.

        Raises:
            ValueError: no action of the model is outstanding.
        """
        self._poller.finished(name, succeeded)

    async def _run(self, on_changes: Callable[[RepositoryChanges], None]) -> None:
        while True:
            try:
                on_changes(await self.poll())
            except Exception:
                log.exception("a poll of the model repository failed")
            await asyncio.sleep(self._interval + TIMER_ERROR)

    async def _read(
        self, actions: PollActions, found: dict[str, Contents | str], problems: dict[str, str]
    ) -> RepositoryChanges:
        """Read and return the models that a poll has chosen.

        Postpone models that have changed since they were scanned.
        """
        read: dict[str, RepositoryModel] = {}
        for name in (*actions.load, *actions.reload):
            try:
                model = await self._in_steps(_one_step(partial(find_model, self._root, name, self._links)))
            except ClockworkError:  # the directory has vanished
                self._poller.postponed(name)
                continue
            if _differ(found[name], model.contents):
                self._poller.postponed(name)
            else:
                read[name] = model
        return RepositoryChanges(
            tuple(read[name] for name in actions.load if name in read),
            tuple(read[name] for name in actions.reload if name in read),
            actions.unload,
            problems,
        )

    async def _list(self) -> list[RepositoryModel]:
        return await self._in_steps(list_in_steps(self._root, self._links))

    async def _list_names(self) -> list[str]:
        return list(await self._in_steps(_one_step(partial(entries_by_name, self._root))))

    async def _in_steps(self, steps: Steps[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._scans, self._work, steps)

    def _work(self, steps: Steps[T]) -> T:
        """Run all steps in the calling thread, with pauses."""
        end = self._clock.now() + MAX_BURST
        while not self._closing.is_set():
            try:
                next(steps)
            except StopIteration as end_of_steps:
                result: T = end_of_steps.value
                return result
            if self._clock.now() >= end:
                self._closing.wait(PAUSE)
                end = self._clock.now() + MAX_BURST
        raise RequestRefusedError("the server is shutting down")


def _seen(began: Nanos, contents: Contents | str) -> Seen | None:
    """Return the part of a model that the poller needs. ``began`` is in nanoseconds since 1970."""
    return None if isinstance(contents, str) else Seen(contents.fingerprint, contents.inode, began - contents.newest)


def _differ(scanned: Contents | str, read: Contents | None) -> bool:
    """Return whether both values are known and are different."""
    return isinstance(scanned, Contents) and read is not None and scanned.fingerprint != read.fingerprint


def _one_step(work: Callable[[], T]) -> Steps[T]:
    yield
    return work()
