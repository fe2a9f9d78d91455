"""Long strings, such as model files, are cut out of the JSON of repository requests."""

import base64
import json
from random import Random

import msgspec
import pytest

from clockwork.errors import InvalidRequestError
from clockwork.oip import long_strings, rest
from clockwork.oip.long_strings import MIN_CUT, PIECE, LongStrings
from clockwork.repository.overrides import OverrideLimits, load_override


def parameters(**given: object) -> dict[str, object]:
    body = json.dumps({"parameters": given}).encode()
    return rest.repository_head(body).parameters


def test_a_file_of_a_load_is_not_decoded_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    decode = msgspec.json.decode

    def counted(text: bytes, **more: object) -> object:
        lengths.append(len(text))
        return decode(text, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(msgspec.json, "decode", counted)
    content = Random(1).randbytes(3 * PIECE + 1)
    given = parameters(config="{}", **{"file:1/model.onnx": base64.b64encode(content).decode()})
    override = load_override(given, OverrideLimits())
    assert override is not None
    assert override.files == {"1/model.onnx": content}
    assert max(lengths) < 1000


@pytest.mark.parametrize("shift", range(8))
def test_a_file_may_contain_escape_sequences(shift: int) -> None:
    content = Random(2).randbytes(2 * PIECE + shift)
    text = base64.b64encode(content).decode()
    escaped = text.replace("/", "\\/").replace("+", "\\u002b")
    body = f'{{"parameters": {{"config": "{{}}", "file:1/a": "{escaped}", "wait": false}}}}'.encode()
    given = rest.repository_head(body).parameters
    assert given["wait"] is False
    override = load_override(given, OverrideLimits())
    assert override is not None
    assert override.files == {"1/a": content}


@pytest.mark.parametrize(
    "text", ["A" * MIN_CUT + '\\"', "A" * MIN_CUT + "é", "A" * (MIN_CUT + 1), "AA==" + "A" * MIN_CUT]
)
def test_a_long_file_that_is_not_base64_is_refused(text: str) -> None:
    body = f'{{"parameters": {{"config": "{{}}", "file:1/a": "{text}"}}}}'.encode()
    with pytest.raises(InvalidRequestError, match="'file:1/a' is not base64"):
        load_override(rest.repository_head(body).parameters, OverrideLimits())


def test_a_long_configuration_is_decoded() -> None:
    given = parameters(config=json.dumps({"max_batch_size": 4, "name": "é" * MIN_CUT}))
    override = load_override(given, OverrideLimits())
    assert override is not None
    assert override.config["max_batch_size"] == [4]


@pytest.mark.parametrize("seed", range(20))
def test_strings_of_any_length_are_restored(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_strings, "PIECE", 7)
    monkeypatch.setattr(long_strings, "MIN_CUT", 5)
    rng = Random(seed)
    strings = ["".join(rng.choices('ab"\\{}[]:, ', k=rng.randrange(20))) for _ in range(10)]
    long = LongStrings(memoryview(json.dumps(strings).encode()))
    found = [long.restore(each) for each in json.loads(long.rest)]
    assert [json.loads(b'"%b"' % each.tobytes()) if isinstance(each, memoryview) else each for each in found] == strings


def test_an_object_that_looks_like_a_mark_stays() -> None:
    assert parameters(a={"cut": 0}, b={"cut": True}, c={"cut": -1}) == {
        "a": {"cut": 0},
        "b": {"cut": True},
        "c": {"cut": -1},
    }


def test_json_that_is_long_without_long_strings_is_refused() -> None:
    body = b'{"parameters": {"a": [' + b"1," * 600_000 + b"1]}}"
    with pytest.raises(InvalidRequestError, match=r"without long strings exceeds the limit of 1\.0 MiB"):
        rest.repository_head(body)
