"""Sends the files of models to workers, on behalf of `clockwork.controller.pushing`.

A worker requests parts of files over a connection of its own. All reading and hashing happens in two threads of low
priority. Parts are sent one at a time, at a limited rate, and a connection may have few open requests. So transfers
take little of the event loop's time, and no message of another connection waits behind more than one part.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Final

from msgspec import Struct

from clockwork.clock import Clock
from clockwork.controller.events import DescribeModel, ModelDescribed
from clockwork.controller.pacing import Pace
from clockwork.errors import ClockworkError, ProtocolError
from clockwork.host.process_tuning import begin_background_thread
from clockwork.messages.files import PART_BYTES, FilePart, FileRequest, ReadFileList, ReadPart
from clockwork.net.connection import Connection
from clockwork.repository.model_files import ModelFiles, find_files
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.units import MIB, Bytes, as_seconds

DEFAULT_RATE: Final[Bytes] = 64 * MIB
"""Default limit of the bytes per second of all transfers together. This is half of a link of 1 Gbit/s."""

MAX_OPEN: Final = 16
"""Largest number of open requests of one connection."""

MAX_KEPT_BYTES: Final[Bytes] = 64 * MIB
"""Limit of the memory for the lists of files. The least recently used lists are dropped, and made again when needed."""

MAX_KEPT: Final = 10_000
"""Largest number of lists of files that are kept."""

GONE: Final = "the controller no longer has the list of these files; load the model again"
"""Answer to a request for files whose list was dropped."""

log = logging.getLogger("clockwork.controller")


class PushConfig(Struct, frozen=True):
    """The files that a controller sends.

    - ``root``: the model root of the controller. Paths of models are relative to it.
    - ``links``: decides which links below the root are followed
    - ``rate``: limit of the bytes per second of all transfers together
    """

    root: Path
    links: LinkPolicy = NO_LINKS
    rate: Bytes = DEFAULT_RATE


class ModelSource:
    """The files of models that workers may request. Use this object on one running event loop."""

    def __init__(self, config: PushConfig | None, clock: Clock, feed: Callable[[ModelDescribed], None]) -> None:
        """If ``config`` is None, the controller sends no files. ``feed`` passes an event to the controller."""
        self._config = config
        self._clock = clock
        self._feed = feed
        self._pace = Pace(DEFAULT_RATE if config is None else config.rate)
        self._kept: OrderedDict[str, ModelFiles] = OrderedDict()  #: by content
        self._contents: dict[tuple[str, str], str] = {}  #: path, name -> content
        self._requests: deque[tuple[Connection, FileRequest]] = deque()
        self._open: dict[Connection, int] = {}  #: number of open requests of each connection
        self._serving: asyncio.Task[None] | None = None
        self._describing: set[asyncio.Task[None]] = set()
        self._closed = Event()  # ends the hashing of a large file
        self._hashing = ThreadPoolExecutor(1, "model-hashing", begin_background_thread)
        self._reading = ThreadPoolExecutor(1, "model-reading", begin_background_thread)

    @property
    def refusal(self) -> str:
        """The reason why connections for files are refused, or an empty text."""
        return "" if self._config is not None else "this controller sends no model files; start it with --push-models"

    def describe(self, command: DescribeModel) -> None:
        """Find and hash the files of a model in a thread. `ModelDescribed` follows later."""
        task = asyncio.get_running_loop().create_task(self._describe(command))
        self._describing.add(task)
        task.add_done_callback(self._describing.discard)

    async def _describe(self, command: DescribeModel) -> None:
        loop = asyncio.get_running_loop()
        try:
            files = await loop.run_in_executor(self._hashing, self._files, command)
        except ClockworkError as error:
            self._feed(ModelDescribed(command.path, command.name, problem=str(error)))
            return
        except Exception:  # without an answer, the load would never end
            log.exception("the files of %r cannot be described", command.path)
            problem = "the controller failed unexpectedly; its log has the exception"
            self._feed(ModelDescribed(command.path, command.name, problem=problem))
            return
        self._keep(command, files)
        self._feed(ModelDescribed(command.path, command.name, files.content, files.files.nbytes))

    def _files(self, command: DescribeModel) -> ModelFiles:
        assert self._config is not None
        earlier = self._kept.get(self._contents.get((command.path, command.name), ""))
        config, stopped = self._config, self._closed.is_set
        return find_files(config.root, command.path, command.name, config.links, stopped, earlier)

    def _keep(self, command: DescribeModel, files: ModelFiles) -> None:
        self._contents[command.path, command.name] = files.content
        self._kept[files.content] = files
        self._kept.move_to_end(files.content)
        while len(self._kept) > MAX_KEPT or sum(len(each.encoded) for each in self._kept.values()) > MAX_KEPT_BYTES:
            if len(self._kept) == 1:
                break
            self._kept.popitem(last=False)
        if len(self._contents) > 2 * MAX_KEPT:
            self._contents = {key: content for key, content in self._contents.items() if content in self._kept}

    # --- connections -------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """Accept a worker's connection for files."""
        self._open[connection] = 0

    def message(self, connection: Connection, request: object) -> None:
        """Handle a request of a worker.

        Raises:
            ProtocolError: this is not a request for files, or too many requests are open.
        """
        if not isinstance(request, ReadFileList | ReadPart):
            raise ProtocolError(f"{type(request).__name__} is not allowed on a connection for files")
        if self._open.get(connection, MAX_OPEN) >= MAX_OPEN:
            raise ProtocolError(f"more than {MAX_OPEN} requests for files are open, which is the limit")
        self._open[connection] += 1
        self._requests.append((connection, request))
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve())

    def closed(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._open.pop(connection, None)

    async def _serve(self) -> None:
        """Answer requests in order, until none is left."""
        try:
            while self._requests:
                connection, request = self._requests.popleft()
                if connection not in self._open:
                    continue
                try:
                    answer = await self._answer(request)
                except (ClockworkError, OSError) as error:
                    answer = (FilePart(request.id, getattr(error, "strerror", None) or str(error)), b"")
                if connection in self._open:
                    self._open[connection] -= 1
                    connection.send(answer[0], [answer[1]] if answer[1] else [])
        finally:
            self._serving = None

    async def _answer(self, request: FileRequest) -> tuple[FilePart, bytes]:
        files = self._kept.get(request.content)
        if files is None:
            return FilePart(request.id, GONE), b""
        self._kept.move_to_end(request.content)
        if isinstance(request, ReadFileList):
            await self._wait(len(files.encoded))
            return FilePart(request.id), files.encoded
        known = files.files.files
        if not 0 <= request.file < len(known) or not 0 <= request.part < known[request.file].parts:
            return FilePart(request.id, f"file {request.file} has no part {request.part}"), b""
        size = known[request.file].part_size(request.part)
        await self._wait(size)
        source = files.sources[request.file].path
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._reading, _read, source, request.part * PART_BYTES, size)
        if len(data) != size:
            return FilePart(request.id, f"{known[request.file].path} became shorter; load the model again"), b""
        return FilePart(request.id), data

    async def _wait(self, nbytes: Bytes) -> None:
        wait = self._pace.reserve(self._clock.now(), nbytes)
        if wait:
            await asyncio.sleep(as_seconds(wait))

    def close(self) -> None:
        """Stop sending, and stop the threads."""
        self._closed.set()
        for task in (self._serving, *self._describing):
            if task is not None:
                task.cancel()
        self._hashing.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=False, cancel_futures=True)


def _read(source: Path, offset: int, size: Bytes) -> bytes:
    with source.open("rb", buffering=0) as file:
        file.seek(offset)
        pieces: list[Any] = []
        while size and (piece := file.read(size)):
            pieces.append(piece)
            size -= len(piece)
    return b"".join(pieces)
