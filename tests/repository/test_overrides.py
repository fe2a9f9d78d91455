"""A load request may bring a configuration and files, as in Triton's model repository extension."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.repository import overrides
from clockwork.repository.models import find_model, wanted_versions
from clockwork.repository.overrides import LoadOverride, OverrideLimits, config_from_json, load_override, write_override
from clockwork.repository.policy import All, Specific, policy_of
from repository.layouts import configure, write

LIMITS = OverrideLimits(max_files=3, max_total=1000)


def brought(**parameters: Any) -> LoadOverride:
    found = load_override(parameters, LIMITS)
    assert found is not None
    return found


# --------------------------------------------------------------------------------------------------- configuration


def test_a_configuration_in_json_replaces_config_pbtxt(tmp_path: Path) -> None:
    root = write(tmp_path, "net/1/model.onnx", "net/2/model.onnx")
    configure(root, "net", "max_batch_size: 4 version_policy { specific { versions: 1 } }")
    config = json.dumps({"max_batch_size": 8, "version_policy": {"all": {}}, "input": [{"name": "x", "dims": [3]}]})
    model = find_model(root, "net", config=brought(config=config).config)
    assert (model.policy, model.max_batch_size) == (All(), 8)
    assert wanted_versions(model) == (1, 2)
    assert find_model(root, "net", config=brought(config="{}").config).max_batch_size is None


def test_a_configuration_may_use_the_json_names_of_protobuf() -> None:
    config = config_from_json('{"maxBatchSize": 8, "versionPolicy": {"specific": {"versions": ["3", "1"]}}, "a": null}')
    assert config["max_batch_size"] == [8]
    assert policy_of(config) == Specific((1, 3))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("{", "config is not JSON"),
        ("[1]", "config is not a JSON object"),
        ({"max_batch_size": 1}, "config is of type dict; it must be a string of JSON"),
        ("[" * 100_000, "config is not JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested deeper than 64"),
        ('{"max_batch_size": -1}', "max_batch_size is -1; it must be a whole number"),
        ('{"max_batch_size": 1e300}', "max_batch_size is 1e\\+300; it must be a whole number"),
        ('{"max_batch_size": "four"}', "max_batch_size is 'four'; it must be a whole number"),
        ('{"a": [[1]]}', "has a list of lists in 'a'"),
        (" " * 2_000_000, "more than 1.0 MiB"),
    ],
)
def test_a_wrong_configuration_is_refused(config: Any, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        brought(config=config)


def test_a_load_without_files_or_configuration_has_no_override() -> None:
    assert load_override({"wait": False}, LIMITS) is None


# ----------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("content", [b"content", base64.b64encode(b"content").decode()])
def test_files_replace_the_directory_of_the_model_for_one_load(content: bytes | str, tmp_path: Path) -> None:
    root = write(tmp_path / "models", "net/1/model.onnx", "net/5/model.onnx")
    override = brought(config='{"max_batch_size": 2}', **{"file:3/model.onnx": content})
    directory = write_override(override, "net", root)
    with directory as place:
        assert place.parent == root
        model = find_model(place, "net", config=override.config)
        assert (wanted_versions(model), model.max_batch_size) == ((3,), 2)
        assert (model.versions[3] / "model.onnx").read_bytes() == b"content"
        assert find_model(place, "net").max_batch_size == 2, "the runtimes read config.pbtxt"
        assert wanted_versions(find_model(root, "net")) == (5,)
    assert [path.name for path in root.iterdir()] == ["net"]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 11, 12, 13, 24, 25, 100])
def test_a_long_file_is_decoded_in_short_steps(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    decode = base64.b64decode

    def counted(text: str, *, validate: bool) -> bytes:
        steps.append(len(text))
        return decode(text, validate=validate)

    monkeypatch.setattr(overrides, "PIECE", 16)
    content = bytes(range(length))
    text = base64.b64encode(content).decode()
    monkeypatch.setattr(base64, "b64decode", counted)
    assert brought(config="{}", **{"file:1/model.onnx": text}).files == {"1/model.onnx": content}
    assert sum(steps) == len(text)
    assert all(step <= 16 for step in steps)


def test_padding_between_two_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "PIECE", 4)
    with pytest.raises(InvalidRequestError, match="is not base64"):
        brought(config="{}", **{"file:1/model.onnx": "AA==AAAA"})


def test_files_need_a_configuration() -> None:
    with pytest.raises(InvalidRequestError, match=r"'file:1/model\.onnx' needs the parameter config"):
        brought(**{"file:1/model.onnx": b""})


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "1/../../x", "1/.hidden", ".", "1/a\nb", "1/a\0b", "1/2/3/4/5", "1/" + "a" * 256],
)
def test_a_path_out_of_the_directory_of_the_model_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not a path in the model's directory"):
        brought(config="{}", **{f"file:{path}": b"x"})


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"1/a": b"x" * 600, "1/b": "A" * 800}, "have 1.2 KiB; the limit is 1000 B"),
        ({f"1/{number}": b"" for number in range(4)}, "has 4 files; the limit is 3"),
        ({"1/a": "not base64!"}, "'file:1/a' is not base64"),
        ({"1/a": 5}, "'file:1/a' is of type int"),
        ({"1/a": b"", "1//a": b""}, "two files '1/a'"),
        ({"1/a": b"", "1/a/b": b""}, "'1/a' of the load is a file and the directory of '1/a/b'"),
    ],
)
def test_files_that_are_wrong_or_exceed_a_limit_are_refused(files: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        brought(config="{}", **{f"file:{path}": content for path, content in files.items()})


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    override = brought(config="{}", **{"file:1/model.onnx": b"x"})
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ServerError, match="the files of model 'net' cannot be written: No space left on device"):
        write_override(override, "net", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ServerError, match="No such file or directory"):
        write_override(override, "net", tmp_path / "missing")


def test_a_wrong_max_batch_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    override = LoadOverride({"max_batch_size": [-1]}, {"1/model.onnx": b"x"})
    with pytest.raises(InvalidRequestError, match="config is wrong: max_batch_size is -1"):
        write_override(override, "net", tmp_path)
    assert not list(tmp_path.iterdir())
