"""An operator's labels are parsed into a table; every wrong value has an error of its own."""

import pytest

from clockwork.controller.naming import is_label
from clockwork.errors import InvalidRequestError
from clockwork.repository import labels
from clockwork.repository.labels import parse_labels


def test_labels_stand_for_versions() -> None:
    table = parse_labels(["net:stable=3", "net:canary=4", "other.v2:stable=1"])
    assert table.versions == {"net": {"stable": 3, "canary": 4}, "other.v2": {"stable": 1}}
    assert table.version("net", "canary") == 4
    with pytest.raises(InvalidRequestError, match="model 'net' has no label 'old'; its labels: canary, stable"):
        table.version("net", "old")
    with pytest.raises(InvalidRequestError, match="model 'x' has no label 'old'; its labels: none"):
        table.version("x", "old")
    assert parse_labels([]).versions == {}


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["net"], "invalid NAME:LABEL=VERSION 'net'; example: resnet50:stable=3"),
        (["net=3"], "invalid NAME:LABEL=VERSION"),
        ([":stable=3"], "invalid NAME:LABEL=VERSION"),
        (["../net:stable=3"], "invalid model name '../net'"),
        (["a\nb:stable=3"], "invalid model name"),
        (["net:=3"], "invalid label ''"),
        (["net:3=3"], "invalid label '3'"),
        (["net:" + "a" * 65 + "=3"], "invalid label"),
        (["net:stable="], "invalid version ''"),
        (["net:stable=-1"], "invalid version '-1'"),
        (["net:stable=latest"], "invalid version 'latest'"),
        (["net:stable=" + "9" * 19], "invalid version"),
        (["net:stable=3", "net:stable=4"], "label 'stable' of model 'net' has the versions 3 and 4; give one"),
        ([f"net:l{number}=1" for number in range(17)], "model 'net' has more than 16 labels"),
    ],
)
def test_a_wrong_label_is_refused(texts: list[str], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        parse_labels(texts)


def test_the_number_of_models_with_labels_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_MODELS", 2)
    with pytest.raises(InvalidRequestError, match="more than 2 models have labels"):
        parse_labels(f"net{number}:stable=1" for number in range(3))


def test_a_version_is_no_label() -> None:
    assert is_label("stable")
    assert not any(map(is_label, ("3", "", "-x", "a b", "+1", "1.5")))
