"""Models of a repository are found in every layout, and a fault of one model does not affect the others."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.repository import contents, models
from clockwork.repository.model_root import resolve
from clockwork.repository.models import find_model, list_models, scan_in_steps, wanted_versions
from clockwork.repository.policy import All, Latest, Specific
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.locating import locate, version_of
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.steps import at_once
from repository.layouts import configure, write


def numbers(root: Path, name: str) -> list[int]:
    return sorted(find_model(root, name).versions)


# -------------------------------------------------------------------------------------------------------- layouts


def test_models_in_the_layouts_of_triton_and_kserve_are_found(tmp_path: Path) -> None:
    root = write(
        tmp_path / "models",
        *("triton/1/model.onnx", "triton/3/model.onnx", "triton/warmup/data", "triton/.ipynb_checkpoints/1/model.onnx"),
        *("program/2/model.pt2", "external/1/model.onnx/model.onnx", "external/1/model.onnx/weights.bin"),
        *("kserve/model.onnx", "volume/net.onnx", "mounted/net/7/model.onnx", "flat.onnx", "flat2.pt2"),
        *("lost+found/x", ".git/config", "README.md", "clockwork-scratch-1/1/model.onnx"),
    )
    configure(root, "triton", "max_batch_size: 4 version_policy { all { } }")
    found = {model.name: sorted(model.versions) for model in list_models(root)}
    assert found == {
        "external": [1],
        "flat": [1],
        "flat2": [1],
        "kserve": [1],
        "mounted": [7],
        "program": [2],
        "triton": [1, 3],
        "volume": [1],
    }
    assert not any(model.problems or model.incomplete or model.warnings for model in list_models(root))
    triton = find_model(root, "triton")
    assert (triton.policy, triton.max_batch_size, triton.versions[3]) == (All(), 4, root / "triton/3")
    assert find_model(root, "flat").versions == {1: root / "flat.onnx"}
    assert find_model(root, "mounted").versions == {7: root / "mounted"}


def test_a_worker_finds_every_version_under_the_path_and_number_of_the_repository(tmp_path: Path) -> None:
    files = (
        "triton/1/model.onnx",
        "triton/3/net.onnx",
        "kserve/model.onnx",
        "volume/net.onnx",
        "mounted/net/7/model.onnx",
    )
    write(tmp_path, *files, "flat.onnx")
    found = {}
    for described in list_models(tmp_path):
        for version, path in described.versions.items():
            below_root = resolve(tmp_path, path.relative_to(tmp_path).as_posix())
            file = OnnxRuntime().locate(below_root, described.name)
            assert version_of(below_root, file) == str(version)
            found[f"{described.name} {version}"] = file.relative_to(tmp_path).as_posix()
    assert sorted(found.values()) == sorted((*files, "flat.onnx"))
    assert found["mounted 7"] == "mounted/net/7/model.onnx"


def test_a_kubernetes_volume_is_read_through_its_links(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/..2026_01_01/model.onnx")
    (root / "net/1/..data").symlink_to("..2026_01_01")
    (root / "net/1/model.onnx").symlink_to("..data/model.onnx")
    before = find_model(root, "net").contents
    write(root, "net/1/..2026_02_02/model.onnx", text="newer")
    (root / "net/1/..data").unlink()
    (root / "net/1/..data").symlink_to("..2026_02_02")
    after = find_model(root, "net")
    assert sorted(after.versions) == [1]
    assert before is not None
    assert after.contents is not None
    assert before.fingerprint != after.contents.fingerprint


def test_a_whole_repository_may_be_a_kubernetes_volume(tmp_path: Path) -> None:
    root = write(tmp_path, "..2026_01_01/net/1/model.onnx")
    configure(root / "..2026_01_01", "net", "max_batch_size: 4")
    (root / "..data").symlink_to("..2026_01_01")
    (root / "net").symlink_to("..data/net")
    (model,) = list_models(root)
    assert (model.versions, model.max_batch_size) == ({1: root / "net/1"}, 4)
    assert not model.problems


def test_only_numbers_without_leading_zeros_are_versions(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx", "net/02/model.onnx", f"net/{'9' * 19}/model.onnx", "net/v3/model.onnx")
    model = find_model(root, "net")
    assert sorted(model.versions) == [1]
    assert [warning[:25] for warning in model.warnings] == ["directory net/02 is ignor", "directory net/99999999999"]


@pytest.mark.parametrize("directory", ["-1", "+1", "00", "01", "9" * 25])
def test_a_directory_with_an_impossible_version_is_not_loaded_as_another_version(
    directory: str, tmp_path: Path
) -> None:
    root = write(tmp_path, f"net/{directory}/model.onnx")
    reason = f"{directory}' of model 'net' is not a version: versions are numbers of up to 18 digits without leading"
    for model in (find_model(root, "net"), *list_models(root)):
        assert model.versions == {}
        assert reason in model.problems[0]
    write(tmp_path, "net/7/model.onnx")
    model = find_model(root, "net")
    assert (sorted(model.versions), model.problems) == ([7], ())
    assert model.warnings[0].startswith(f"directory net/{directory} is ignored")


@pytest.mark.parametrize("directory", ["-1", "9" * 25])
def test_a_worker_does_not_load_an_impossible_version_as_version_1(directory: str, tmp_path: Path) -> None:
    root = write(tmp_path, f"net/{directory}/model.onnx")
    with pytest.raises(InvalidModelError, match="is not a version"):
        locate(root / "net", ".onnx", "a model", "net")


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["../models/net", "/etc", "", ".", "..", "net/1", "a" * 10_000, "a\0b", ".hidden"])
def test_an_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    root = write(tmp_path / "models", "net/1/model.onnx", ".hidden/1/model.onnx")
    with pytest.raises(InvalidRequestError, match="invalid model name") as refused:
        find_model(root, name)
    assert len(str(refused.value)) < 300


def test_a_name_that_is_not_utf8_is_a_problem_and_can_be_sent(tmp_path: Path) -> None:
    write(tmp_path, "good/1/model.onnx", "b\udcff/1/model.onnx", "c\udcfe.onnx")
    found = {model.name: model.problems for model in list_models(tmp_path)}
    assert list(found) == [r"b\udcff", r"c\udcfe", "good"]
    assert "invalid model name" in found[r"b\udcff"][0]
    assert not found["good"]
    msgspec.json.encode(found)
    assert list(at_once(scan_in_steps(tmp_path))) == list(found)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"model 'net' is not in the model repository: add net/1/model\.onnx"):
        find_model(tmp_path, "net")


def test_a_directory_with_an_invalid_model_name_is_reported_as_a_problem(tmp_path: Path) -> None:
    root = write(tmp_path, "my net/1/model.onnx", "net/1/model.onnx", "two/1/model.onnx", "two.onnx")
    found = {model.name: model.problems for model in list_models(root)}
    assert found["net"] == ()
    assert "invalid model name 'my net'" in found["my net"][0]
    assert found["two"] == ("model 'two' exists as two and as two.onnx: remove or rename one",)


# ----------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("link", ["net", "net/1", "net/1/model.onnx", "net/config.pbtxt"])
def test_a_link_out_of_the_repository_is_followed_only_if_its_target_is_allowed(link: str, tmp_path: Path) -> None:
    root = write(tmp_path / "models", "other/1/model.onnx", "net/1/model.onnx")
    configure(root, "net", "max_batch_size: 4")
    inside, outside = root / link, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    model = find_model(root, "net")
    assert any(
        "is outside of" in text or "points out of" in text for text in (*model.problems, *model.incomplete.values())
    )
    assert [model.name for model in list_models(root) if not model.problems and not model.incomplete] == ["other"]
    allowed = find_model(root, "net", LinkPolicy(targets=(outside,)))
    assert wanted_versions(allowed) == (1,)
    assert allowed.max_batch_size == 4


def test_links_in_circles_and_to_nowhere_are_problems(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx")
    (root / "circle").symlink_to("circle")
    (root / "nowhere").symlink_to("missing")
    (root / "net/2").symlink_to("../net")
    names = {model.name: model for model in list_models(root)}
    assert names["circle"].problems
    assert find_model(root, "nowhere").problems == ("there is no 'nowhere' under the model repository: check the path",)
    assert "more than 8 levels" in names["net"].problems[0]


def test_a_broken_link_beside_a_model_file_does_no_harm(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx")
    (root / "net/1/notes").symlink_to("missing")
    before = find_model(root, "net")
    assert wanted_versions(before) == (1,)
    (root / "net/1/notes").unlink()
    assert find_model(root, "net").contents != before.contents


# ------------------------------------------------------------------------------------------------- faulty models


def test_a_half_written_version_is_reported_and_the_others_are_found(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx", "net/2/.model.onnx.part")
    write(root, "net/3/model.onnx", text="")
    write(root, "net/4/a.onnx", "net/4/b.onnx")
    model = find_model(root, "net")
    assert sorted(model.versions) == [1]
    assert model.incomplete[2] == ("directory '2' contains no .onnx or .pt2 file: add it, or remove the directory")
    assert model.incomplete[3] == "model file 'model.onnx' is empty: write the whole file"
    assert model.incomplete[4].startswith("directory '4' contains several .onnx files")
    with pytest.raises(InvalidModelError, match="version 4 of model 'net': directory '4' contains several"):
        wanted_versions(model)
    configure(root, "net", "version_policy { specific { versions: 1 } }")
    assert wanted_versions(find_model(root, "net")) == (1,)


def test_a_model_of_incomplete_versions_only_says_which(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/note.txt", "empty/note.txt")
    assert list(find_model(root, "net").incomplete) == [1]
    assert find_model(root, "empty").problems == (
        "directory 'empty' contains no .onnx or .pt2 file: add it, or remove the directory",
    )


def test_a_faulty_configuration_is_a_problem_of_its_model(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"{name}/1/model.onnx" for name in ("good", "garbage", "policy", "batch", "long")))
    configure(root, "garbage", "input {")
    configure(root, "policy", "version_policy { newest { } }")
    configure(root, "batch", "max_batch_size: many")
    configure(root, "long", "#" * 2_000_000)
    found = {model.name: "".join(model.problems) for model in list_models(root)}
    assert found["good"] == ""
    assert found["garbage"] == ("config.pbtxt of 'garbage' cannot be read: a '{' is not closed; correct or remove it")
    assert "the configuration of model 'policy' is wrong: version_policy has the unknown policy" in found["policy"]
    assert "max_batch_size is 'many'" in found["batch"]
    assert "is longer than 1048576 bytes" in found["long"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_an_unreadable_directory_is_a_problem_of_its_model(tmp_path: Path) -> None:
    root = write(tmp_path, "closed/1/model.onnx", "open/1/model.onnx")
    (root / "closed").chmod(0)
    try:
        assert [model.problems for model in list_models(root)] == [
            ("model 'closed' cannot be read: Permission denied",),
            (),
        ]
    finally:
        (root / "closed").chmod(0o700)


def test_a_directory_that_cannot_be_listed_is_a_problem_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, "closed/1/model.onnx", "open/1/model.onnx")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = [model.problems for model in list_models(root)]
    assert found == [("model 'closed' cannot be read: Permission denied",), ()]
    scanned = at_once(scan_in_steps(root))
    assert scanned["closed"] == "model 'closed' cannot be read: Permission denied"
    assert scanned["open"] == find_model(root, "open").contents


# ---------------------------------------------------------------------------------------------------------- limits


def test_a_model_with_too_many_files_or_levels_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_FILES", 20)
    deep = "/".join("abcdefghij")
    root = write(tmp_path, "net/1/model.onnx", f"deep/1/{deep}/x", *(f"wide/1/{number}" for number in range(30)))
    found = {model.name: "".join(model.problems) for model in list_models(root)}
    assert found["net"] == ""
    assert "contains more than 20 files" in found["wide"]
    assert "has more than 8 levels of directories" in found["deep"]


def test_a_repository_that_is_too_large_or_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MAX_ENTRIES", 3)
    write(tmp_path, *(f"{number}.txt" for number in range(4)))
    with pytest.raises(InvalidRequestError, match="has more than 3 entries"):
        list_models(tmp_path)
    with pytest.raises(InvalidRequestError, match="cannot be read: No such file or directory"):
        list_models(tmp_path / "missing")


# ------------------------------------------------------------------------------------------------------- versions


def test_the_highest_version_is_wanted_by_default(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"net/{version}/model.onnx" for version in (1, 2, 10)))
    model = find_model(root, "net")
    assert model.policy == Latest(1)
    assert wanted_versions(model) == (10,)


def test_a_specific_version_that_is_missing_is_an_error_that_lists_the_existing_ones(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"net/{version}/model.onnx" for version in (1, 2, 10)))
    configure(root, "net", "version_policy { specific { versions: [2, 3, 4] } }")
    model = find_model(root, "net")
    assert model.policy == Specific((2, 3, 4))
    with pytest.raises(InvalidModelError, match=r"versions 3, 4 of model 'net' .* existing versions: 1, 2, 10"):
        wanted_versions(model)


def test_a_given_configuration_replaces_the_file(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx", "net/2/model.onnx")
    configure(root, "net", "garbage {")
    model = find_model(root, "net", config={"version_policy": [{"all": [{}]}]})
    assert wanted_versions(model) == (1, 2)


def test_a_problem_of_the_model_is_an_error_of_its_versions(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx")
    configure(root, "net", "garbage {")
    with pytest.raises(InvalidModelError, match=r"config\.pbtxt of 'net' cannot be read"):
        wanted_versions(find_model(root, "net"))


# ------------------------------------------------------------------------------------------------------ contents


def test_each_change_of_a_served_file_changes_the_fingerprint(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx", "net/2/model.onnx", "net/2/weights.bin")
    configure(root, "net", "max_batch_size: 4")

    def seen() -> contents.Contents:
        found = find_model(root, "net").contents
        assert found is not None
        return found

    before = seen()
    assert seen() == before
    write(root, "net/.hidden", "net/1/.model.swp", "net/warmup/data", "net/1/.ipynb_checkpoints/model.onnx")
    assert seen().fingerprint == before.fingerprint
    write(root, "net/2/weights.bin", text="other weights")
    after = seen()
    assert after.fingerprint != before.fingerprint
    assert after.versions[1] == before.versions[1]
    assert after.versions[2] != before.versions[2]
    configure(root, "net", "max_batch_size: 16")
    assert seen().fingerprint != after.fingerprint
    assert seen().versions == after.versions
