"""A repository is polled in a thread; its changes arrive on the loop, once, and models are read on demand."""

import asyncio
import os
import shutil
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from clockwork.errors import InvalidModelError, InvalidRequestError, RequestRefusedError
from clockwork.host import repository_watcher
from clockwork.host.repository_watcher import RepositoryChanges, RepositoryWatcher
from clockwork.repository.models import find_model
from repository.layouts import configure, write

QUICK = 0.001


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


class Observer:
    """Collects the changes of a watcher and reports each action as done."""

    def __init__(self, watcher: RepositoryWatcher) -> None:
        self.watcher = watcher
        self.changes: list[RepositoryChanges] = []
        self.polled = asyncio.Event()

    def __call__(self, changes: RepositoryChanges) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.changes.append(changes)
        for name in (*(model.name for model in (*changes.load, *changes.reload)), *changes.unload):
            self.watcher.finished(name, True)
        self.polled.set()

    async def poll(self) -> None:
        """Wait for a poll that began after this call."""
        for _ in range(2):
            self.polled.clear()
            await self.polled.wait()

    async def until(self, kind: str, name: str) -> Any:
        """Return the first change of this kind and name, once there is one."""
        while True:
            for changes in self.changes:
                for it in getattr(changes, kind):
                    if name in (it, getattr(it, "name", "")):
                        return it
            await self.poll()

    def count(self, kind: str) -> int:
        return sum(len(getattr(changes, kind)) for changes in self.changes)


def test_models_that_appear_change_and_vanish_are_reported_once(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path / "models", "one/1/model.onnx")
        watcher = RepositoryWatcher(root, QUICK)
        observer = Observer(watcher)
        watcher.start(observer)
        assert sorted((await observer.until("load", "one")).versions) == [1]
        write(tmp_path / "new", "two/3/model.onnx", "2/model.onnx")
        (tmp_path / "new/two").rename(root / "two")
        assert sorted((await observer.until("load", "two")).versions) == [3]
        (tmp_path / "new/2").rename(root / "one/2")
        assert sorted((await observer.until("reload", "one")).versions) == [1, 2]
        shutil.rmtree(root / "two")
        assert await observer.until("unload", "two") == "two"
        await observer.poll()
        assert [observer.count(kind) for kind in ("load", "reload", "unload")] == [2, 1, 1]
        watcher.close()

    run(test())


def test_a_directory_that_was_renamed_into_place_is_loaded_by_the_next_poll(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path / "models")
        interval = 0.05
        watcher = RepositoryWatcher(root, interval)
        write(tmp_path, "net/1/model.onnx")
        await asyncio.sleep(2 * interval)
        assert (await watcher.poll()).load == ()
        (tmp_path / "net").rename(root / "net")
        assert [model.name for model in (await watcher.poll()).load] == ["net"]
        watcher.close()

    run(test())


def test_a_directory_that_is_being_copied_waits_although_its_files_have_old_times(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path, "net/1/model.onnx")
        for path in ("net/1/model.onnx", "net/1", "net"):
            os.utime(root / path, (0, 0))  # as rsync -a and tar do
        watcher = RepositoryWatcher(root, 3600)
        assert (await watcher.poll()).load == ()
        watcher.close()

    run(test())


def test_a_model_with_problems_is_reported_with_them(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path, "good/1/model.onnx", "bad/1/model.onnx", "my net/1/model.onnx")
        configure(root, "bad", "garbage {")
        watcher = RepositoryWatcher(root, QUICK)
        first = await watcher.poll()
        await asyncio.sleep(2 * QUICK)
        second = await watcher.poll()
        loads = {model.name: model.problems for model in (*first.load, *second.load)}
        assert loads["good"] == ()
        assert "config.pbtxt of 'bad' cannot be read" in loads["bad"][0]
        assert list(second.problems) == ["my net"]
        watcher.close()

    run(test())


def test_a_repository_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path / "models", "net/1/model.onnx")
        watcher = RepositoryWatcher(root, QUICK)
        observer = Observer(watcher)
        watcher.start(observer)
        await observer.until("load", "net")
        root.rename(tmp_path / "away")
        while not observer.changes[-1].error:
            await observer.poll()
        assert "cannot be read: No such file or directory" in observer.changes[-1].error
        await observer.poll()
        (tmp_path / "away").rename(root)
        while observer.changes[-1].error:
            await observer.poll()
        await observer.poll()
        assert [observer.count(kind) for kind in ("load", "reload", "unload")] == [1, 0, 0]
        watcher.close()

    run(test())


def test_a_model_that_changes_between_scan_and_reading_is_loaded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = find_model

    def late(root: Path, name: str, *arguments: Any) -> Any:
        monkeypatch.setattr(repository_watcher, "find_model", find)
        write(root, "net/2/model.onnx")
        return find(root, name, *arguments)

    async def test() -> None:
        root = write(tmp_path, "net/1/model.onnx")
        watcher = RepositoryWatcher(root, QUICK)
        monkeypatch.setattr(repository_watcher, "find_model", late)
        observer = Observer(watcher)
        watcher.start(observer)
        assert sorted((await observer.until("load", "net")).versions) == [1, 2]
        assert observer.count("load") == 1
        watcher.close()

    run(test())


def test_a_model_that_vanishes_between_scan_and_reading_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(root: Path, name: str, *arguments: Any) -> Any:
        shutil.rmtree(root / name)
        return find_model(root, name, *arguments)

    async def test() -> None:
        root = write(tmp_path, "net/1/model.onnx")
        watcher = RepositoryWatcher(root, QUICK)
        monkeypatch.setattr(repository_watcher, "find_model", late)
        observer = Observer(watcher)
        watcher.start(observer)
        while (root / "net").exists():
            await observer.poll()
        await observer.poll()
        assert not any(observer.count(kind) for kind in ("load", "reload", "unload"))
        watcher.close()

    run(test())


def test_a_failing_callback_does_not_end_the_polls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        polls: list[RepositoryChanges] = []
        enough = asyncio.Event()

        def fail(changes: RepositoryChanges) -> None:
            polls.append(changes)
            if len(polls) == 3:
                enough.set()
            raise ZeroDivisionError

        watcher = RepositoryWatcher(write(tmp_path), QUICK)
        watcher.start(fail)
        await enough.wait()
        watcher.close()

    run(test())
    assert "a poll of the model repository failed" in caplog.text


def test_models_are_found_and_listed_on_demand(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path, "a/1/model.onnx", "b/1/model.onnx", "b/2/model.onnx")
        watcher = RepositoryWatcher(root, 15.0)
        assert [model.name for model in await watcher.models()] == ["a", "b"]
        assert await watcher.names() == ["a", "b"]
        found = await watcher.find("b", {"max_batch_size": [4]})
        assert (sorted(found.versions), found.max_batch_size) == ([1, 2], 4)
        with pytest.raises(InvalidModelError, match="model 'c' is not in the model repository"):
            await watcher.find("c")
        with pytest.raises(InvalidRequestError, match="invalid model name"):
            await watcher.find("../a")
        watcher.close()

    run(test())


def test_a_slow_file_system_blocks_neither_the_loop_nor_more_callers_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def slow(*_: Any) -> str:
        release.wait(30)
        return "found"

    async def test() -> None:
        monkeypatch.setattr(repository_watcher, "find_model", slow)
        monkeypatch.setattr(repository_watcher, "MAX_FINDS", 2)
        watcher = RepositoryWatcher(write(tmp_path), 15.0)
        finds = [asyncio.ensure_future(watcher.find("net")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestRefusedError, match="2 models are being looked up"):
            await watcher.find("net")
        assert await watcher.models() == [], "a list does not wait for finds"
        release.set()
        assert await asyncio.gather(*finds) == ["found", "found"]
        watcher.close()

    run(test())


def test_a_closed_watcher_stops_a_long_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(*_: Any) -> Any:
        while True:
            begun.set()
            yield

    async def test() -> None:
        monkeypatch.setattr(repository_watcher, "list_in_steps", endless)
        watcher = RepositoryWatcher(write(tmp_path), 15.0)
        listed = asyncio.ensure_future(watcher.models())
        await asyncio.to_thread(begun.wait, 30)
        watcher.close()
        with pytest.raises(RequestRefusedError, match="shutting down"):
            await listed

    run(test())
