"""The files that a worker has received: parts, limits, and what interrupted transfers and killed workers leave."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clockwork.errors import InvalidModelError
from clockwork.host.received_models import ReceivedModels, object_id
from clockwork.messages.files import PART_BYTES, FileList
from clockwork.repository.model_files import ModelFiles, find_files
from clockwork.runtimes.links import NO_LINKS
from clockwork.units import GIB, MIB

Make = Callable[..., ModelFiles]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a model of one file with the given bytes."""

    def model(name: str, content: bytes) -> ModelFiles:
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / f"{name}.onnx").write_bytes(content)
        return find_files(tmp_path / "root", f"{name}.onnx", name, NO_LINKS)

    return model


def receive(store: ReceivedModels, model: ModelFiles, parts: int | None = None) -> None:
    """Store a model, or only its first parts."""
    (entry,), (source,) = model.files.files, model.sources
    store.make_room(model.files, [] if store.has(entry) else [entry])
    if not store.has(entry):
        partial = store.begin(entry)
        content = source.path.read_bytes()
        for part in range(partial.parts, entry.parts if parts is None else parts):
            assert partial.append(content[part * PART_BYTES : (part + 1) * PART_BYTES])
        if parts is not None:
            partial.close()
            return
        store.finish(entry, partial)
    assemble(store, model)


def assemble(store: ReceivedModels, model: ModelFiles) -> None:
    assembly = store.assembly()
    assert all(assembly.add(entry) for entry in model.files.files)
    assembly.complete(model.content)
    assembly.close()


def stored(store: ReceivedModels) -> int:
    directories = (store.directory / "objects", store.directory / "partial")
    return sum(file.stat().st_size for directory in directories for file in directory.iterdir())


def test_a_received_model_has_its_files_under_their_paths(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    model = make("m", b"content")
    assert store.tree(model.content) is None
    receive(store, model)
    tree = store.tree(model.content)
    assert tree is not None
    assert (tree / "m.onnx").read_bytes() == b"content"
    assert ReceivedModels(tmp_path / "store", GIB).tree(model.content) == tree


def test_models_with_equal_files_share_them(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    for name in ("a", "b"):
        receive(store, make(name, b"same" * 1000))
    assert stored(store) == 4000


@pytest.mark.parametrize("content", ["", "..", "../../etc", "x" * 64 + "/", "0" * 64, "é" * 64])
def test_a_content_that_was_not_received_has_no_directory(tmp_path: Path, content: str) -> None:
    (tmp_path / "store" / "models").mkdir(parents=True)
    assert ReceivedModels(tmp_path / "store", GIB).tree(content) is None


def test_an_interrupted_file_continues_after_its_last_good_part(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    model = make("m", os.urandom(3 * PART_BYTES + 5))
    receive(store, model, parts=2)
    (left,) = (tmp_path / "store" / "partial").iterdir()
    store = ReceivedModels(tmp_path / "store", GIB)
    (entry,) = model.files.files
    partial = store.begin(entry)
    assert partial.parts == 2
    partial.close()
    with left.open("r+b") as file:
        file.seek(PART_BYTES + 7)
        file.write(b"damaged")
    partial = store.begin(entry)
    assert partial.parts == 1
    assert left.stat().st_size == PART_BYTES
    partial.close()
    with left.open("ab") as file:
        file.write(b"half of a part")
    receive(store, model)
    tree = store.tree(model.content)
    assert tree is not None
    assert (tree / "m.onnx").read_bytes() == model.sources[0].path.read_bytes()
    assert not list((tmp_path / "store" / "partial").iterdir())


def test_a_part_that_does_not_match_its_hash_is_not_stored(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    model = make("m", bytes(PART_BYTES + 1))
    (entry,) = model.files.files
    store.make_room(model.files, [entry])
    partial = store.begin(entry)
    assert not partial.append(bytes(PART_BYTES - 1) + b"x")
    assert partial.parts == 0
    assert partial.append(bytes(PART_BYTES))
    assert partial.append(bytes(1))
    store.finish(entry, partial)
    assert store.has(entry)


def test_two_workers_may_receive_the_same_file_into_one_directory(tmp_path: Path, make: Make) -> None:
    first, second = ReceivedModels(tmp_path / "store", GIB), ReceivedModels(tmp_path / "store", GIB)
    model = make("m", b"content")
    (entry,) = model.files.files
    first.make_room(model.files, [entry])
    one, two = first.begin(entry), second.begin(entry)
    assert one.path != two.path
    for store, partial in ((first, one), (second, two)):
        assert partial.append(b"content")
        store.finish(entry, partial)
        assemble(store, model)
    tree = second.tree(model.content)
    assert tree is not None
    assert (tree / "m.onnx").read_bytes() == b"content"
    assert not list((tmp_path / "store" / "partial").iterdir())


def test_the_least_recently_used_models_are_removed_to_make_room(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", 3000)
    models = [make(name, name.encode() * 1000) for name in "abcd"]
    for age, model in enumerate(models[:3]):
        receive(store, model)
        tree = store.tree(model.content)
        assert tree is not None
        os.utime(tree, ns=(age, age))
    assert store.tree(models[0].content) is not None  # now this model was used last
    receive(store, models[3])
    assert [store.tree(model.content) is not None for model in models] == [True, False, True, True]
    assert stored(store) == 3000


def test_a_model_that_was_received_but_not_read_yet_is_not_removed(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", 2000)
    models = [make(name, name.encode() * 1000) for name in "abc"]
    for age, model in enumerate(models[:2]):
        receive(store, model)
        os.utime(tmp_path / "store" / "models" / model.content, ns=(age, age))
    store.pinned.add(models[0].content)
    receive(store, models[2])
    assert [store.tree(model.content) is not None for model in models] == [True, False, True]


def test_interrupted_files_are_removed_before_models(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", 2 * PART_BYTES)
    whole, interrupted, new = make("a", b"a" * 1000), make("b", b"b" * (PART_BYTES + 1)), make("c", b"c" * PART_BYTES)
    receive(store, whole)
    receive(store, interrupted, parts=1)
    receive(store, new)
    assert store.tree(whole.content) is not None
    assert store.tree(new.content) is not None
    assert stored(store) == PART_BYTES + 1000


def test_a_file_that_another_process_receives_is_not_removed(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", PART_BYTES + 100)
    received, new = make("b", b"b" * (PART_BYTES + 1)), make("c", b"c" * PART_BYTES)
    (entry,) = received.files.files
    store.make_room(received.files, [entry])
    partial = store.begin(entry)
    assert partial.append(b"b" * PART_BYTES)
    receive(store, new)
    assert partial.path.exists()
    partial.close()


def test_the_complete_files_of_an_incomplete_model_are_not_removed(tmp_path: Path, make: Make) -> None:
    first, second = ReceivedModels(tmp_path / "store", 2000), ReceivedModels(tmp_path / "store", 2000)
    received, new = make("a", b"a" * 1500), make("b", b"b" * 1500)
    (entry,) = received.files.files
    first.make_room(received.files, [entry])
    assembly = first.assembly()
    partial = first.begin(entry)
    assert partial.append(b"a" * 1500)
    first.finish(entry, partial)
    assert assembly.add(entry)
    receive(second, new)
    ReceivedModels(tmp_path / "store", 2000)  # a process that starts leaves it alone too
    assembly.complete(received.content)
    assembly.close()
    tree = first.tree(received.content)
    assert tree is not None
    assert (tree / "a.onnx").read_bytes() == b"a" * 1500


def test_a_file_that_was_removed_is_not_added_to_a_model(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    model = make("a", b"content")
    receive(store, model)
    for file in (tmp_path / "store" / "objects").iterdir():
        file.unlink()
    assembly = store.assembly()
    assert not assembly.add(model.files.files[0])
    assembly.close()
    assert not list((tmp_path / "store" / "partial").iterdir())


def test_a_process_that_is_killed_while_it_removes_a_model_leaves_no_model_without_files(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReceivedModels(tmp_path / "store", 1000)
    old, new = make("a", b"a" * 1000), make("b", b"b" * 1000)
    receive(store, old)

    def killed(path: Path, ignore_errors: bool) -> None:
        (path / "a.onnx").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            receive(store, new)
    store = ReceivedModels(tmp_path / "store", 1000)
    assert store.tree(old.content) is None
    assert not list((tmp_path / "store" / "partial").iterdir())
    receive(store, old)
    assert store.tree(old.content) is not None


def test_a_model_that_is_larger_than_the_limit_is_refused_with_the_option(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", 100)
    model = make("m", bytes(101))
    with pytest.raises(InvalidModelError, match=r"at most 100 B \(raise the limit with --received-models-size\)"):
        store.make_room(model.files, model.files.files)


def test_a_full_disk_is_reported_with_its_directory_and_the_space_that_is_needed(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    model = make("m", bytes(3 * MIB))
    usage = shutil.disk_usage(tmp_path)._replace(free=65 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InvalidModelError) as error:
        store.make_room(model.files, model.files.files)
    assert "store has 65.0 MiB free, but the model needs 67.0 MiB: free space, or choose another directory" in str(
        error.value
    )
    assert "--received-models" in str(error.value)
    store.make_room(FileList(()), [])


def test_incomplete_models_of_killed_workers_are_removed_at_the_next_start(tmp_path: Path, make: Make) -> None:
    store = ReceivedModels(tmp_path / "store", GIB)
    receive(store, make("m", b"content"))
    left = tmp_path / "store" / "partial" / "model-abc"
    left.mkdir()
    (left / "m.onnx").hardlink_to(next((tmp_path / "store" / "objects").iterdir()))
    ReceivedModels(tmp_path / "store", GIB)
    assert not left.exists()


def test_the_name_of_a_file_depends_on_its_size_and_parts(make: Make) -> None:
    names = {object_id(make("m", content).files.files[0]) for content in (b"", b"a", b"b", b"ab")}
    assert len(names) == 4
