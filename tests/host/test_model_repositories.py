"""A load by name finds versions in the model repositories, and may bring a configuration and files."""

import asyncio
import base64
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.host import model_repositories
from clockwork.host.model_repositories import ModelRepositories, RepositoryConfig
from clockwork.messages.requests import ModelVersion
from clockwork.repository.model_root import resolve
from clockwork.repository.policy import All
from clockwork.runtimes.config_pbtxt import max_batch_size
from clockwork.runtimes.locating import locate
from clockwork.runtimes.scratch import PREFIX, ScratchDirectory
from repository.layouts import configure, write

CONTENT = base64.b64encode(b"brought").decode()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def brought_files(root: Path) -> list[Path]:
    return sorted(root.glob(f"*/{PREFIX}*/**/*.onnx"))


def test_a_load_by_name_gets_the_versions_that_the_policy_chooses(tmp_path: Path) -> None:
    async def test() -> None:
        one = write(tmp_path / "one", "net/1/model.onnx", "net/2/model.onnx", "both/1/model.onnx")
        two = write(tmp_path / "two", "flat/model.onnx", "both/1/model.onnx", "all/1/model.onnx", "all/3/model.onnx")
        config = RepositoryConfig((one, two), tmp_path, policies={"all": All()})
        repositories = ModelRepositories(config, set)
        assert await repositories.resolve("net", {}) == (ModelVersion("2", "one/net/2"),)
        assert await repositories.resolve("flat", {}) == (ModelVersion("1", "two/flat"),)
        assert await repositories.resolve("all", {}) == (ModelVersion("1", "two/all/1"), ModelVersion("3", "two/all/3"))
        with pytest.raises(InvalidRequestError, match=r"model 'both' is in '.*one' and in '.*two': remove one"):
            await repositories.resolve("both", {})
        with pytest.raises(InvalidRequestError, match="model 'other' is not in the model repository"):
            await repositories.resolve("other", {})
        assert [model.name for model in await repositories.models()] == ["all", "both", "flat", "net"]
        repositories.close()

    run(test())


def test_a_repository_that_has_vanished_is_a_fault_of_the_server(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path / "models", "net/1/model.onnx")
        repositories = ModelRepositories(RepositoryConfig((root,), tmp_path), set)
        root.rename(tmp_path / "away")
        with pytest.raises(ServerError, match=r"cannot be read: No such file or directory; restore it, or request"):
            await repositories.models()
        repositories.close()

    run(test())


def test_a_load_without_a_repository_says_which_option_is_missing() -> None:
    async def test() -> None:
        repositories = ModelRepositories(None, set)
        assert not repositories
        with pytest.raises(InvalidRequestError, match="no model repository; start it with --model-repository DIR"):
            await repositories.resolve("net", {})

    run(test())


@pytest.mark.parametrize("layout", ["net/1/model.onnx", "net/model.onnx"])
def test_a_configuration_that_a_load_brings_reaches_the_worker(tmp_path: Path, layout: str) -> None:
    async def test() -> None:
        root = write(tmp_path / "models", layout)
        configure(root, "net", "max_batch_size: 4")
        repositories = ModelRepositories(RepositoryConfig((root,), root), set)
        ((number, path),) = [(v.number, v.path) for v in await repositories.resolve("net", {"config": "{}"})]
        assert number == "1"
        found = resolve(root, path)
        file = locate(found, ".onnx", "a model", "net")
        assert file.read_text() == "model"
        assert max_batch_size(found, file) is None
        (version,) = await repositories.resolve("net", {"config": '{"max_batch_size": 4}'})
        assert version.path == Path(layout).parent.as_posix()  # nothing differs, so no directory is made
        repositories.close()
        assert not list(root.glob(f"{PREFIX}*"))

    run(test())


def test_a_configuration_that_a_load_brings_replaces_a_broken_config_pbtxt(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path / "models", "net/1/model.onnx")
        configure(root, "net", "max_batch_size: {")
        repositories = ModelRepositories(RepositoryConfig((root,), root), set)
        with pytest.raises(InvalidRequestError, match=r"config\.pbtxt of 'net' cannot be read"):
            await repositories.resolve("net", {})
        ((number, path),) = [(v.number, v.path) for v in await repositories.resolve("net", {"config": "{}"})]
        assert number == "1"
        found = resolve(root, path)
        assert max_batch_size(found, locate(found, ".onnx", "a model", "net")) is None
        repositories.close()

    run(test())


def test_files_that_a_load_brings_stay_while_a_model_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(model_repositories, "UNUSED", 0)
        root = write(tmp_path / "models", "net/1/model.onnx")
        needed: set[str] = set()
        repositories = ModelRepositories(RepositoryConfig((root,), tmp_path), lambda: needed)
        parameters = {"config": "{}", "file:3/model.onnx": CONTENT}
        (version,) = await repositories.resolve("net", parameters)
        assert version.number == "3"
        assert (tmp_path / version.path / "model.onnx").read_bytes() == b"brought"
        needed.add(version.path)
        monkeypatch.setattr(model_repositories, "UNUSED", 3600 * 10**9)
        await repositories.resolve("net", {})
        assert len(brought_files(tmp_path)) == 1
        needed.clear()
        monkeypatch.setattr(model_repositories, "UNUSED", 0)
        assert await repositories.resolve("net", {}) == (ModelVersion("1", "models/net/1"),)
        assert not brought_files(tmp_path)
        repositories.close()

    run(test())


def test_files_that_no_model_needs_any_more_are_removed_without_another_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(model_repositories, "UNUSED", 10**8)
        root = write(tmp_path / "models", "net/1/model.onnx")
        needed: set[str] = set()
        checked, removed = asyncio.Event(), asyncio.Event()
        remove = ScratchDirectory.remove

        def in_use() -> set[str]:
            checked.set()
            return needed

        def noted(directory: ScratchDirectory) -> None:
            remove(directory)
            removed.set()

        monkeypatch.setattr(ScratchDirectory, "remove", noted)
        repositories = ModelRepositories(RepositoryConfig((root,), tmp_path), in_use)
        (version,) = await repositories.resolve("net", {"config": "{}", "file:3/model.onnx": CONTENT})
        needed.add(version.path)
        await checked.wait()
        assert len(brought_files(tmp_path)) == 1
        needed.clear()
        await removed.wait()
        assert not brought_files(tmp_path)
        repositories.close()

    run(test())


def test_files_that_restored_models_need_survive_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        root = write(tmp_path / "models", "net/1/model.onnx")
        needed: set[str] = set()
        parameters = {"config": "{}", "file:3/model.onnx": CONTENT}
        first = ModelRepositories(RepositoryConfig((root,), root, durable=True), lambda: needed)
        (kept,) = await first.resolve("net", parameters)
        await first.resolve("other", parameters)
        needed.add(kept.path)
        first.close()
        assert [file.read_bytes() for file in root.glob(f"{PREFIX}*/**/*.onnx")] == [b"brought"]
        restored = RepositoryConfig((root,), root, durable=True, restored=(kept.path,))
        second = ModelRepositories(restored, lambda: needed)
        assert (root / kept.path / "model.onnx").exists()
        second.close()
        third = ModelRepositories(RepositoryConfig((root,), root), set)
        assert not list(root.glob(f"{PREFIX}*"))
        third.close()

    run(test())
