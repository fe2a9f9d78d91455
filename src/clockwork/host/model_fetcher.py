"""Receives model files from the controller, on behalf of the action FetchModel.

The files arrive over a connection of their own. Each part is checked with its hash and written in a thread. If the
connection ends, the transfer continues over a new one. If the worker loses its controller, the transfer ends, and the
next FetchModel for the content continues where it stopped.
"""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from clockwork.errors import ClockworkError, ConnectionLostError, InvalidModelError
from clockwork.host.log_events import event_fields
from clockwork.host.process_tuning import begin_background_thread
from clockwork.host.received_models import Assembly, PartialFile, ReceivedModels
from clockwork.messages.actions import FetchModel
from clockwork.messages.files import MAX_LIST_BYTES, FileEntry, FileList, FilePart, ReadFileList, ReadPart
from clockwork.messages.link import ROLE_FILES, Hello
from clockwork.messages.results import ErrorResult, FetchModelResult
from clockwork.messages.status import Status
from clockwork.net.address import Address
from clockwork.net.connection import Connection, LinkConfig
from clockwork.net.dial import MAX_BACKOFF, MIN_BACKOFF, dial
from clockwork.repository.model_files import decode_list
from clockwork.units import MIB
from clockwork.version import __version__
from clockwork.wire.codec import decode_part

WINDOW: Final = 4
"""Number of parts that are requested ahead, so that the network is not idle while a part is written."""

MAX_CORRUPT: Final = 3
"""Number of times that a part which does not match its hash is requested again."""

MAX_ATTEMPTS: Final = 10
"""Number of connections in a row that may end without any new part before a transfer fails."""

MAX_REMOVED: Final = 3
"""Number of times that a file is received again because another process has removed it from the directory."""

MAX_FETCHES: Final = 16
"""Largest number of FetchModel actions at the same time. A controller sends one at a time."""

Opened = TypeVar("Opened", PartialFile, Assembly)

log = logging.getLogger("clockwork.worker")


class _Link:
    """A connection for files. Answers are matched to requests by their ids."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._last = 0

    def ask(self, request: Callable[[int], Any]) -> "asyncio.Future[bytes]":
        """Send a request. The future contains the bytes of the answer."""
        self._last += 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self.connection is None or self.connection.closing:
            _fail(future, ConnectionLostError("the connection for files ended"))
        else:
            self._waiting[self._last] = future
            self.connection.send(request(self._last))
        return future

    def received(self, connection: Connection, message: FilePart, payload: Any) -> None:
        future = self._waiting.pop(message.id, None)
        if future is None or future.done():
            return
        if message.problem:
            _fail(future, InvalidModelError(message.problem))
        else:
            future.set_result(bytes(payload))

    def closed(self, connection: Connection, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                _fail(future, ConnectionLostError(reason))


def _fail(future: "asyncio.Future[bytes]", error: ClockworkError) -> None:
    future.set_exception(error)
    future.exception()  # marks the exception as retrieved, in case nobody waits for this part any more


class ModelFetcher:
    """Executes FetchModel actions. Use this object on one running event loop."""

    def __init__(
        self,
        name: str,
        store: ReceivedModels,
        *,
        tls: ssl.SSLContext | None = None,
        token: str = "",
        rng: random.Random | None = None,
    ) -> None:
        """``name``, ``tls`` and ``token`` are those of the worker's own connection."""
        self._hello = Hello(ROLE_FILES, name, f"clockwork {__version__}", token)
        self._store = store
        self._tls = tls
        self._rng = rng or random.Random(name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._disk = ThreadPoolExecutor(1, "model-files", begin_background_thread)

    @property
    def busy(self) -> bool:
        """Whether files are being received."""
        return bool(self._tasks)

    def start(
        self, controller: Address, action: FetchModel, answer: Callable[[FetchModelResult | ErrorResult], None]
    ) -> None:
        """Begin a transfer. ``answer`` is called with the result, unless `cancel` is called before."""
        if len(self._tasks) >= MAX_FETCHES:
            answer(_failed(action, Status.ERROR, f"{MAX_FETCHES} models are being received, which is the limit"))
            return
        task = asyncio.get_running_loop().create_task(self._run(controller, action, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Stop all transfers, because the controller is lost. Parts that were received are kept."""
        for task in self._tasks:
            task.cancel()
        self._store.pinned.clear()

    async def close(self) -> None:
        """Stop all transfers, and the thread."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._disk.shutdown(wait=False, cancel_futures=True)

    async def _run(
        self, controller: Address, action: FetchModel, answer: Callable[[FetchModelResult | ErrorResult], None]
    ) -> None:
        result: FetchModelResult | ErrorResult
        try:
            result = FetchModelResult(action.id, await self._fetch(controller, action))
            self._store.pinned.add(action.content)
        except ClockworkError as error:
            result = _failed(action, Status.INVALID_MODEL, str(error))
        except OSError as error:
            text = f"{self._store.directory} cannot be written: {error.strerror or error}"
            result = _failed(action, Status.ERROR, text)
        except Exception:
            log.exception("the files of content %s were not received", action.content[:12])
            result = _failed(action, Status.ERROR, "the worker failed unexpectedly; its log has the exception")
        extra = event_fields("model_received", content=action.content[:12], bytes=getattr(result, "received", 0))
        level, text = logging.INFO, "received"
        if isinstance(result, ErrorResult):
            level, text = logging.WARNING, result.message
        log.log(level, "files of content %s: %s", action.content[:12], text, extra=extra)
        answer(result)

    async def _fetch(self, controller: Address, action: FetchModel) -> int:
        """Receive the missing files. Return the number of bytes that were received."""
        if self._store.tree(action.content) is not None:
            return 0
        transfer = _Transfer(action.content, self._store, self._disk)
        attempts, wait = 0, MIN_BACKOFF
        while True:
            before = transfer.received
            try:
                await self._attempt(controller, transfer)
            except ConnectionLostError as error:
                attempts = 1 if transfer.received > before else attempts + 1
                if attempts > MAX_ATTEMPTS:
                    raise ConnectionLostError(f"the transfer was interrupted: {error}") from None
                wait = MIN_BACKOFF if attempts == 1 else min(2 * wait, MAX_BACKOFF)
                await asyncio.sleep(wait * self._rng.uniform(0.5, 1.0))
            else:
                return transfer.received

    async def _attempt(self, controller: Address, transfer: "_Transfer") -> None:
        """Receive the missing files over one connection."""
        link = _Link()
        link.connection = connection = await dial(
            controller,
            self._hello,
            decode=decode_part,
            on_message=link.received,
            on_closed=link.closed,
            config=LinkConfig(max_frame_bytes=MAX_LIST_BYTES + MIB),
            tls=self._tls,
        )
        try:
            await transfer.run(link)
        finally:
            connection.close("the transfer has ended")


class _Transfer:
    """The transfer of one model. It may continue over several connections."""

    def __init__(self, content: str, store: ReceivedModels, disk: ThreadPoolExecutor) -> None:
        self._content = content
        self._store = store
        self._disk = disk
        self._files: FileList | None = None
        self.received = 0  #: number of bytes that were received and checked

    async def run(self, link: _Link) -> None:
        """Receive the files over a connection.

        Raises:
            ConnectionLostError: the connection ended.
            InvalidModelError: the files cannot be received.
            OSError: the files cannot be written.
        """
        if self._files is None:
            encoded = await link.ask(partial(ReadFileList, content=self._content))
            self._files = await self._on_disk(decode_list, encoded, self._content)
        files, store = self._files, self._store
        missing = [entry for entry in files.files if not store.has(entry)]
        await self._on_disk(store.make_room, files, missing)
        assembly = await self._open(store.assembly)
        try:
            for number, entry in enumerate(files.files):
                received = 0
                while not await self._on_disk(assembly.add, entry):
                    if received > MAX_REMOVED:
                        text = f"{entry.path!r} was removed from {store.directory} during the transfer"
                        raise InvalidModelError(text)
                    await self._receive_file(link, number, entry)
                    received += 1
            await self._on_disk(assembly.complete, self._content)
        finally:
            await self._on_disk(assembly.close)

    async def _receive_file(self, link: _Link, number: int, entry: FileEntry) -> None:
        file = await self._open(self._store.begin, entry)
        try:
            await self._receive(link, number, entry, file)
            await self._on_disk(self._store.finish, entry, file)
        finally:
            await self._on_disk(file.close)

    async def _receive(self, link: _Link, number: int, entry: FileEntry, file: PartialFile) -> None:
        waiting: deque[asyncio.Future[bytes]] = deque()
        following = file.parts
        corrupt = 0
        while file.parts < entry.parts:
            while following < entry.parts and len(waiting) < WINDOW:
                waiting.append(link.ask(partial(ReadPart, content=self._content, file=number, part=following)))
                following += 1
            data = await waiting.popleft()
            if await self._on_disk(file.append, data):
                self.received += len(data)
                corrupt = 0
                continue
            corrupt += 1
            if corrupt > MAX_CORRUPT:
                raise InvalidModelError(
                    f"part {file.parts} of {entry.path!r} does not match its hash: the file was changed on the "
                    "controller, or the network damages data; load the model again"
                )
            log.warning("part %d of %r does not match its hash; it is requested again", file.parts, entry.path)
            waiting.appendleft(link.ask(partial(ReadPart, content=self._content, file=number, part=file.parts)))

    async def _open(self, function: "Callable[..., Opened]", *arguments: Any) -> "Opened":
        """Return the object that a function opens. If this call is cancelled, the object is closed when it is open."""
        opening = asyncio.get_running_loop().run_in_executor(self._disk, function, *arguments)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise

    async def _on_disk(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the thread for the disk. A cancelled call still runs to its end."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._disk, function, *arguments))


def _close(opening: "asyncio.Future[Any]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _failed(action: FetchModel, status: Status, message: str) -> ErrorResult:
    return ErrorResult(action.id, FetchModel.__name__, status, message)
