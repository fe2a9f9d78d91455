"""The parsers of durations, sizes, models and SLOs of models."""

from pathlib import Path

import pytest
import typer

from clockwork.cli.models import NamedModel, common_root, load_specs, model_slos, parse_model
from clockwork.cli.parsers import duration, size
from clockwork.controller.config import LoadSpec
from clockwork.units import GIB, MIB, MILLISECOND, SECOND


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("250ms", 250 * MILLISECOND),
        ("0.1s", 100 * MILLISECOND),
        (".5 s", 500 * MILLISECOND),
        ("3", 3 * SECOND),
        ("2min", 120 * SECOND),
        ("7us", 7_000),
    ],
)
def test_a_duration_is_parsed(text: str, nanos: int) -> None:
    assert duration(text) == nanos


@pytest.mark.parametrize("text", ["", "s", "1h", "1e3s", "-1s", "0.0ms", "1,5s", "9" * 40])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GiB", 2 * GIB), ("512m", 512 * MIB), ("1.5G", 3 * GIB // 2), ("2GB", 2 * 10**9), ("16777216", 16 * MIB)],
)
def test_a_size_is_parsed(text: str, count: int) -> None:
    assert size(text) == count


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "deep/b.onnx", "odd=name:3.onnx", "served/c/1/model.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path", "name", "copies"),
    [
        ("a.onnx", "a.onnx", "a", 1),
        ("./deep/../a.onnx", "a.onnx", "a", 1),
        ("first=a.onnx", "a.onnx", "first", 1),
        ("a.onnx:20", "a.onnx", "a", 20),
        ("x-1=deep/b.onnx:3", "deep/b.onnx", "x-1", 3),
        ("odd=name:3.onnx", "odd=name:3.onnx", "odd=name:3", 1),
        ("good=odd=name:3.onnx:2", "odd=name:3.onnx", "good", 2),
        ("served/c", "served/c", "c", 1),
        ("served/c/1/model.onnx", "served/c/1/model.onnx", "c", 1),
    ],
)
def test_a_model_is_parsed(models: Path, text: str, path: str, name: str, copies: int) -> None:
    assert parse_model(text) == NamedModel(models / path, name, copies)


def test_the_default_number_of_copies_applies_to_models_without_a_number(models: Path) -> None:
    assert [parse_model(text, 5).copies for text in ("a.onnx", "a.onnx:2")] == [5, 2]


def test_the_root_is_the_innermost_common_directory(models: Path) -> None:
    named = [parse_model(text) for text in ("a.onnx", "deep/b.onnx:2")]
    assert common_root(named) == models
    assert common_root(named[1:]) == models / "deep"
    assert load_specs(named, models) == (LoadSpec("a.onnx", "a", 1), LoadSpec("deep/b.onnx", "b", 2))


def test_the_root_contains_the_targets_of_links(models: Path) -> None:
    (models / "snapshots").mkdir()
    (models / "snapshots/m.onnx").symlink_to("../deep/b.onnx")
    named = [parse_model("snapshots/m.onnx")]
    assert common_root(named) == models
    assert load_specs(named, models) == (LoadSpec("snapshots/m.onnx", "m", 1),)


def test_a_model_outside_of_the_given_root_is_refused(models: Path) -> None:
    with pytest.raises(typer.BadParameter, match="is outside of the model root"):
        load_specs([parse_model("a.onnx")], models / "deep")


SPECS = (LoadSpec("a.onnx", "a"), LoadSpec("c.onnx", "c", 2))


def test_each_model_may_have_its_own_slo() -> None:
    assert model_slos(None, SPECS) == {}
    texts = ["a=250ms", "c=1s", "c-2=2s"]
    assert model_slos(texts, SPECS) == {"a": 250 * MILLISECOND, "c": SECOND, "c-2": 2 * SECOND}
    assert model_slos(["anything=1s"]) == {"anything": SECOND}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["a"], "example: resnet50=250ms"),
        (["=1s"], "example: resnet50=250ms"),
        (["a=soon"], "invalid duration 'soon'"),
        (["a=1s", "a=2s"], "model 'a' has two SLOs"),
        (["b=1s"], "model 'b' is unknown; served models: a, c, c-1, c-2"),
    ],
)
def test_an_invalid_slo_of_a_model_is_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        model_slos(texts, SPECS)
