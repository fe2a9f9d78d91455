"""Model files travel from a controller to a worker: interruptions, damaged data, limits and misuse."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client.live import run
from clockwork.clock import MonotonicClock
from clockwork.controller.events import DescribeModel, ModelDescribed
from clockwork.errors import InvalidModelError
from clockwork.host import model_fetcher, model_source
from clockwork.host.model_fetcher import ModelFetcher
from clockwork.host.model_source import ModelSource, PushConfig
from clockwork.host.received_models import PartialFile, ReceivedModels, object_id
from clockwork.host.worker_port import WorkerPort
from clockwork.messages.actions import FetchModel
from clockwork.messages.files import PART_BYTES, FileEntry, FilePart, ReadFileList, ReadPart
from clockwork.messages.link import ROLE_FILES, ROLE_WORKER, Hello
from clockwork.messages.results import ErrorResult, FetchModelResult
from clockwork.messages.status import Status
from clockwork.net.address import Address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.net.server import Server
from clockwork.repository import model_files
from clockwork.units import GIB, MIB, Bytes
from clockwork.wire.codec import decode_part
from net.links import eventually
from onnx_graphs import dense, saved_with_external_data

LOOPBACK = Address("127.0.0.1", 0)


class Files:
    """A model root whose models can be fetched, and a record of the parts that were read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, rate: Bytes = GIB, pushes: bool = True) -> None:
        self.root = root
        self.read: list[tuple[str, int]] = []
        self.alter: Callable[[str, int, bytes], bytes] = lambda name, part, data: data
        self.described: asyncio.Queue[ModelDescribed] = asyncio.Queue()
        config = PushConfig(root, rate=rate) if pushes else None
        self.source = ModelSource(config, MonotonicClock(), self.described.put_nowait)
        self.worker_messages: list[Any] = []
        original = model_source._read

        def read(source: Path, offset: int, size: Bytes) -> bytes:
            self.read.append((source.name, offset // PART_BYTES))
            return self.alter(source.name, offset // PART_BYTES, original(source, offset, size))

        monkeypatch.setattr(model_source, "_read", read)

    async def describe(self, path: str = "m.onnx", name: str = "m") -> ModelDescribed:
        self.source.describe(DescribeModel(path, name))
        return await self.described.get()


@asynccontextmanager
async def listening(files: Files) -> AsyncIterator[Server]:
    port = WorkerPort(
        files.source,
        on_connected=lambda connection: None,
        on_message=lambda connection, message, payload: files.worker_messages.append(message),
        on_closed=lambda connection, reason: None,
        on_silent=lambda connection, silent: None,
        admits=lambda connection, hello: "",
        is_connected=lambda name: False,
    )
    server = await port.listen(
        LOOPBACK, MonotonicClock(), None, None, None, max_frame_bytes=64 * MIB, max_outgoing_bytes=256 * MIB
    )
    try:
        yield server
    finally:
        files.source.close()
        await server.close("the test is over")


class Fetching:
    """A fetcher and its results."""

    def __init__(self, address: Address, store: ReceivedModels) -> None:
        self.store = store
        self.address = address
        self.fetcher = ModelFetcher("w0", store)
        self.results: asyncio.Queue[FetchModelResult | ErrorResult] = asyncio.Queue()

    def start(self, described: ModelDescribed, id: int = 1) -> None:
        assert not described.problem
        action = FetchModel(id, described.content, described.nbytes)
        self.fetcher.start(self.address, action, self.results.put_nowait)

    async def fetch(self, described: ModelDescribed) -> FetchModelResult | ErrorResult:
        self.start(described)
        return await self.results.get()

    def check(self, described: ModelDescribed, root: Path) -> None:
        """Assert that every received file equals the file of the controller."""
        tree = self.store.tree(described.content)
        assert tree is not None
        received = [path.relative_to(tree) for path in tree.rglob("*") if path.is_file()]
        assert received
        for path in received:
            assert (tree / path).read_bytes() == (root / path).read_bytes()


@asynccontextmanager
async def transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int = 5 * PART_BYTES + 7, **settings: Any
) -> AsyncIterator[tuple[Files, Server, Fetching]]:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "m.onnx").write_bytes(os.urandom(size))
    files = Files(tmp_path / "root", monkeypatch, **settings)
    async with listening(files) as server:
        fetching = Fetching(server.address, ReceivedModels(tmp_path / "store", GIB))
        try:
            yield files, server, fetching
        finally:
            await fetching.fetcher.close()


def test_a_model_is_received_whole_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, fetching):
            described = await files.describe()
            assert described.nbytes == 5 * PART_BYTES + 7
            assert await fetching.fetch(described) == FetchModelResult(1, described.nbytes)
            fetching.check(described, files.root)
            assert files.read == [("m.onnx", part) for part in range(6)]
            assert await fetching.fetch(described) == FetchModelResult(1, 0)
            await eventually(lambda: not fetching.fetcher.busy)

    run(test())


def test_external_data_and_directories_are_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, fetching):
            saved_with_external_data(dense(), files.root / "net" / "1" / "model.onnx")
            (files.root / "net" / "config.pbtxt").write_text("max_batch_size: 4\n")
            described = await files.describe("net", "net")
            assert isinstance(await fetching.fetch(described), FetchModelResult)
            fetching.check(described, files.root)
            tree = fetching.store.tree(described.content)
            assert tree is not None
            found = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
            assert found == ["net/1/model.onnx", "net/1/weights.bin", "net/config.pbtxt"]

    run(test())


def test_a_transfer_continues_over_a_new_connection_without_reading_a_part_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, fetching):
            monkeypatch.setattr(model_fetcher, "WINDOW", 1)
            loop = asyncio.get_running_loop()

            def cut(name: str, part: int, data: bytes) -> bytes:
                if part in (2, 4) and files.read.count((name, part)) == 1:
                    (connection,) = files.source._open
                    loop.call_soon_threadsafe(connection.abort, "the cable was cut")
                return data

            files.alter = cut
            described = await files.describe()
            assert await fetching.fetch(described) == FetchModelResult(1, described.nbytes)
            fetching.check(described, files.root)
            assert [part for _, part in files.read] == [0, 1, 2, 2, 3, 4, 4, 5]

    run(test())


def test_a_worker_that_was_killed_during_a_transfer_continues_after_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, server, fetching):
            monkeypatch.setattr(model_fetcher, "WINDOW", 1)
            gate = threading.Event()
            reached = asyncio.Event()
            loop = asyncio.get_running_loop()

            def wait(name: str, part: int, data: bytes) -> bytes:
                if part == 3 and not gate.is_set():
                    loop.call_soon_threadsafe(reached.set)
                    assert gate.wait(60)
                return data

            files.alter = wait
            described = await files.describe()
            fetching.start(described)
            await reached.wait()
            await fetching.fetcher.close()
            assert fetching.results.empty()
            gate.set()
            again = Fetching(server.address, ReceivedModels(tmp_path / "store", GIB))
            assert await again.fetch(described) == FetchModelResult(1, described.nbytes - 3 * PART_BYTES)
            again.check(described, files.root)
            assert [part for _, part in files.read] == [0, 1, 2, 3, 3, 4, 5]
            await again.fetcher.close()

    run(test())


def test_a_damaged_part_is_detected_by_its_hash_and_requested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, fetching):

            def damage(name: str, part: int, data: bytes) -> bytes:
                damaged = part in (1, 5) and files.read.count((name, part)) <= model_fetcher.MAX_CORRUPT
                return bytes([data[0] ^ 1]) + data[1:] if damaged else data

            files.alter = damage
            described = await files.describe()
            assert await fetching.fetch(described) == FetchModelResult(1, described.nbytes)
            fetching.check(described, files.root)
            assert "part 1 of 'm.onnx' does not match its hash; it is requested again" in caplog.text

    run(test())


def test_a_file_that_changes_on_the_controller_during_a_transfer_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, server, fetching):
            described = await files.describe()
            (files.root / "m.onnx").write_bytes(bytes(5 * PART_BYTES + 7))
            result = await fetching.fetch(described)
            assert isinstance(result, ErrorResult)
            assert result.status == Status.INVALID_MODEL
            assert "part 0 of 'm.onnx' does not match its hash: the file was changed on the" in result.message
            changed = await files.describe()
            assert changed.content != described.content
            assert await fetching.fetch(changed) == FetchModelResult(1, changed.nbytes)
            (files.root / "m.onnx").write_bytes(b"short")
            other = Fetching(server.address, ReceivedModels(tmp_path / "other", GIB))
            result = await other.fetch(changed)
            assert isinstance(result, ErrorResult)
            assert "m.onnx became shorter; load the model again" in result.message
            await other.fetcher.close()

    run(test())


def test_two_workers_with_one_directory_receive_a_model_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, server, fetching):
            other = Fetching(server.address, ReceivedModels(tmp_path / "store", GIB))
            described = await files.describe()
            results = await asyncio.gather(fetching.fetch(described), other.fetch(described))
            assert all(isinstance(result, FetchModelResult) for result in results)
            fetching.check(described, files.root)
            await other.fetcher.close()

    run(test())


def test_a_lost_controller_ends_the_transfer_without_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch, rate=1) as (files, _, fetching):
            described = await files.describe()
            fetching.start(described)
            assert fetching.fetcher.busy
            fetching.fetcher.cancel()
            await eventually(lambda: not fetching.fetcher.busy)
            assert fetching.results.empty()

    run(test())


def test_a_controller_that_stays_away_fails_the_transfer_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(model_fetcher, "MIN_BACKOFF", 0.001)
        monkeypatch.setattr(model_fetcher, "MAX_BACKOFF", 0.002)
        fetching = Fetching(Address("127.0.0.1", 1), ReceivedModels(tmp_path / "store", GIB))
        result = await fetching.fetch(ModelDescribed("m.onnx", "m", "0" * 64, 5))
        assert isinstance(result, ErrorResult)
        assert result.message.startswith("the transfer was interrupted: cannot connect to 127.0.0.1:1: ")
        await fetching.fetcher.close()

    run(test())


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, server, _):
            (tmp_path / "file").touch()
            fetching = Fetching(server.address, ReceivedModels(tmp_path / "file", GIB))
            result = await fetching.fetch(await files.describe())
            assert isinstance(result, ErrorResult)
            assert result.message == f"{tmp_path / 'file'} cannot be written: Not a directory"
            await fetching.fetcher.close()

    run(test())


def test_a_model_that_the_controller_lacks_is_described_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, _):
            problem = "there is no 'other.onnx' under the controller's model root: check the path"
            assert await files.describe("other.onnx", "o") == ModelDescribed("other.onnx", "o", problem=problem)

    run(test())


@pytest.mark.parametrize("failure", [InvalidModelError("no model"), RuntimeError("a bug")])
def test_every_failure_to_describe_a_model_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, _):

            def fail(*arguments: object) -> None:
                raise failure

            monkeypatch.setattr(model_source, "find_files", fail)
            problem = (await files.describe()).problem
            unexpected = "the controller failed unexpectedly; its log has the exception"
            assert problem == ("no model" if isinstance(failure, InvalidModelError) else unexpected)

    run(test())


def test_files_that_were_added_to_a_model_are_sent_at_the_next_load_and_the_others_are_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, _, fetching):
            saved_with_external_data(dense(), files.root / "net" / "1" / "model.onnx")
            hashed: list[str] = []
            original = model_files._hashed

            def note(file: Path, *arguments: Any, **options: Any) -> Any:
                hashed.append(file.name)
                return original(file, *arguments, **options)

            monkeypatch.setattr(model_files, "_hashed", note)
            first = await files.describe("net", "net")
            assert (await files.describe("net", "net")).content == first.content
            (files.root / "net" / "config.pbtxt").write_text("max_batch_size: 4\n")
            second = await files.describe("net", "net")
            assert hashed == ["model.onnx", "weights.bin", "config.pbtxt"]
            saved_with_external_data(dense(1), files.root / "net" / "2" / "model.onnx")
            third = await files.describe("net", "net")
            assert len({first.content, second.content, third.content}) == 3
            assert isinstance(await fetching.fetch(third), FetchModelResult)
            tree = fetching.store.tree(third.content)
            assert tree is not None
            assert sorted(path.name for path in (tree / "net").iterdir()) == ["2", "config.pbtxt"]
            fetching.check(third, files.root)

    run(test())


def test_a_complete_file_that_another_process_removes_during_the_transfer_is_received_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch, size=5) as (files, _, fetching):
            removed = 0
            limit = model_fetcher.MAX_REMOVED
            original = ReceivedModels.finish

            def finish(store: ReceivedModels, entry: FileEntry, partial: PartialFile) -> None:
                nonlocal removed
                original(store, entry, partial)
                if removed < limit:
                    removed += 1
                    (tmp_path / "store" / "objects" / object_id(entry)).unlink()

            monkeypatch.setattr(ReceivedModels, "finish", finish)
            described = await files.describe()
            assert await fetching.fetch(described) == FetchModelResult(1, 5 * (limit + 1))
            fetching.check(described, files.root)
            (files.root / "m.onnx").write_bytes(b"other")
            removed, limit = 0, limit + 1
            result = await fetching.fetch(await files.describe())
            assert isinstance(result, ErrorResult)
            assert result.message == f"'m.onnx' was removed from {tmp_path / 'store'} during the transfer"

    run(test())


class Peer:
    """A connection to the port for workers."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[Any, bytes]] = asyncio.Queue()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self, server: Server, role: str = ROLE_FILES) -> Connection:
        return await dial(
            server.address,
            Hello(role, "w9", "raw"),
            decode=decode_part,
            on_message=lambda connection, message, payload: self.answers.put_nowait((message, bytes(payload))),
            on_closed=lambda connection, reason: self.closed.set_result(reason),
        )


def test_requests_for_other_files_get_an_error_and_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch) as (files, server, _):
            content = (await files.describe()).content
            peer = Peer()
            connection = await peer.connect(server)
            for request in (
                ReadFileList(1, "0" * 64),
                ReadPart(1, "../../etc/passwd", 0, 0),
                ReadPart(1, content, 1, 0),
                ReadPart(1, content, -1, 0),
                ReadPart(1, content, 0, 6),
                ReadPart(1, content, 0, -1),
            ):
                connection.send(request)
                answer, payload = await peer.answers.get()
                assert isinstance(answer, FilePart)
                assert answer.problem
                assert payload == b""
            assert not files.read
            connection.close("done")

    run(test())


def test_too_many_open_requests_and_other_messages_end_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch, rate=1) as (files, server, _):
            content = (await files.describe()).content
            peer = Peer()
            connection = await peer.connect(server)
            for number in range(model_source.MAX_OPEN + 2):
                connection.send(ReadPart(number, content, 0, 0))
            assert "more than 16 requests for files are open, which is the limit" in await peer.closed
            other = Peer()
            connection = await other.connect(server)
            connection.send(FetchModelResult(1))
            assert "FetchModelResult is not allowed on a connection for files" in await other.closed
            worker = Peer()
            connection = await worker.connect(server, ROLE_WORKER)
            connection.send(ReadFileList(1, content))
            assert "ReadFileList is not allowed on a worker's connection for actions" in await worker.closed
            assert not files.worker_messages

    run(test())


def test_a_controller_without_push_models_refuses_connections_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with transfer(tmp_path, monkeypatch, pushes=False) as (_, server, _):
            with pytest.raises(Exception, match="this controller sends no model files; start it with --push-models"):
                await Peer().connect(server)

    run(test())


def test_the_lists_of_files_that_a_controller_keeps_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(model_source, "MAX_KEPT", 2)
        async with transfer(tmp_path, monkeypatch) as (files, _, fetching):
            first = await files.describe()
            for name in "abcdef":
                (files.root / f"{name}.onnx").write_bytes(name.encode())
                await files.describe(f"{name}.onnx", name)
            assert len(files.source._kept) == 2
            assert len(files.source._contents) <= 4
            result = await fetching.fetch(first)
            assert isinstance(result, ErrorResult)
            assert "the controller no longer has the list of these files; load the model again" in result.message

    run(test())
