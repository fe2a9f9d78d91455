"""The state directory keeps the served models for the next start."""

import asyncio
import logging
import os
import threading
from pathlib import Path

import pytest

from clockwork.controller.config import DesiredModels, LoadSpec
from clockwork.controller.events import Respond
from clockwork.host import state_store
from clockwork.host.state_store import FILE, Arguments, StateConfig, StateStore, load_state
from clockwork.host.stored_files import write_file
from clockwork.messages.requests import EvictResponse, LoadModelResponse, PromoteResponse

MODELS = DesiredModels((LoadSpec("a/1", "a", 1, "1", "a"),), {"a": "1"}, {"a": {"x": "1"}}, {"a": 5}, 2)
GIVEN = Arguments((LoadSpec("a/1", "a"),), {"a": {"x": "1"}}, "/models")


def save(directory: Path, *sets: DesiredModels) -> None:
    async def main() -> None:
        store = StateStore(StateConfig(directory, GIVEN))
        for desired in sets:
            store.save(desired)
        await store.close()

    asyncio.run(main())


def test_the_last_stored_models_are_read_at_the_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "new/state"
    assert load_state(directory) == (None, "")
    save(directory, DesiredModels(), MODELS)
    state, fault = load_state(directory)
    assert state is not None
    assert (state.desired, state.arguments, fault) == (MODELS, GIVEN, "")
    assert [path.name for path in directory.iterdir()] == [FILE]


def test_models_that_change_during_a_write_are_written_once_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(path: Path, data: bytes, *, sync: bool) -> None:
        assert sync
        write_file(path, data)
        state, _ = load_state(path.parent)
        assert state is not None
        written.append(state.desired.workers)

    monkeypatch.setattr(state_store, "write_file", write)

    async def main() -> None:
        store = StateStore(StateConfig(tmp_path, GIVEN))
        store.save(DesiredModels(workers=1))
        await asyncio.sleep(0)  # the write of the first set begins
        for workers in range(2, 50):
            store.save(DesiredModels(workers=workers))
        await store.close()

    asyncio.run(main())
    assert written == [1, 49]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"format": 1, "arguments": {}, "desi', b'{"format": 2}', b"[" * 100_000, b'{"format": 1, "desired": 3}'],
)
def test_a_file_that_cannot_be_used_is_reported_and_renamed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    state, fault = load_state(tmp_path)
    assert state is None
    assert str(path) in fault
    assert "it was renamed to models.json.unusable" in fault
    assert (tmp_path / "models.json.unusable").read_bytes() == content
    assert load_state(tmp_path) == (None, "")


def test_a_fifo_in_place_of_the_file_does_not_block_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    state, fault = load_state(tmp_path)
    assert state is None
    assert "it is not a regular file" in fault


def test_a_directory_that_cannot_be_written_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    async def main() -> None:
        store = StateStore(StateConfig(tmp_path / "file/state", GIVEN))
        for workers in range(3):
            store.save(DesiredModels(workers=workers))
            await store.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert len(caplog.messages) == 1
    assert f"cannot be stored in {tmp_path}/file/state" in caplog.messages[0]
    assert load_state(tmp_path / "file/state")[0] is None


def held_responses(directory: Path, stuck: threading.Event | None = None) -> list[str]:
    """Return the responses to changes in the order in which they are sent, and whether the file exists then.

    If the disk is stuck, ``stuck`` is set when the first response is sent.
    """
    order: list[str] = []
    sent = asyncio.Event()

    def send(command: Respond) -> None:
        order.append(f"{type(command.response).__name__} {(directory / FILE).exists()}")
        sent.set()

    async def main() -> None:
        store = StateStore(StateConfig(directory, GIVEN))
        load, promote = LoadModelResponse(1, 0, ""), PromoteResponse(2, 0, "")
        assert not store.hold(Respond(1, load), send), "nothing is being written"
        store.save(MODELS)
        assert store.hold(Respond(1, load), send)
        assert store.hold(Respond(1, promote), send)
        assert not store.hold(Respond(1, EvictResponse(3, 0, "")), send)
        assert order == []
        if stuck is not None:
            await sent.wait()
            stuck.set()
        await store.close()

    asyncio.run(main())
    return order


def test_a_change_is_answered_after_it_is_stored(tmp_path: Path) -> None:
    assert held_responses(tmp_path) == ["LoadModelResponse True", "PromoteResponse True"]


def test_a_change_is_answered_with_a_warning_if_it_cannot_be_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert held_responses(tmp_path / "file" / "below") == ["LoadModelResponse False", "PromoteResponse False"]
    assert "the served models cannot be stored" in caplog.text


def test_a_disk_that_does_not_answer_delays_the_response_only_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def write(path: Path, data: bytes, *, sync: bool) -> None:
        released.wait()

    monkeypatch.setattr(state_store, "write_file", write)
    monkeypatch.setattr(state_store, "MAX_HELD", 0.01)
    assert held_responses(tmp_path, released) == ["LoadModelResponse False", "PromoteResponse False"]
    assert "changes are answered without the file" in caplog.text
