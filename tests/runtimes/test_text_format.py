"""Protobuf text is parsed without a schema, as Triton's configurations use it."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.runtimes.text_format import parse_text

EXAMPLE = """
name: "resnet"  # a comment
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] },
  { name: 'y', dims: 1; dims: 2 }
]
version_policy: < specific { versions: [1,3] } >
parameters { key: "a" value: { string_value: "one \\"two\\"" " three\\n" } }
[extension.name]: 0x10
ratio: 1.5f low: -inf optional: true hidden: -3
"""


def test_the_fields_of_a_message_are_returned() -> None:
    assert parse_text(EXAMPLE) == {
        "name": ["resnet"],
        "max_batch_size": [8],
        "input": [
            {"name": ["x"], "data_type": ["TYPE_FP32"], "dims": [3, -1]},
            {"name": ["y"], "dims": [1, 2]},
        ],
        "version_policy": [{"specific": [{"versions": [1, 3]}]}],
        "parameters": [{"key": ["a"], "value": [{"string_value": ['one "two" three\n']}]}],
        "[extension.name]": [16],
        "ratio": [1.5],
        "low": ["-inf"],
        "optional": [True],
        "hidden": [-3],
    }


def test_numbers_and_escapes_are_read_as_protobuf_reads_them() -> None:
    assert parse_text(r'a: 017 b: "\x41\101\u00e9\t\\" c: [] d: 1e3 e: .5') == {
        "a": [15],
        "b": ["AA\u00e9\t\\"],
        "c": [],
        "d": [1000.0],
        "e": [0.5],
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\na", "the last line gives a no value"),
        ("a:", "the last line gives a no value"),
        ("\na b: 1", "line 2 gives a no value"),
        ("a: }", "line 1 gives a no value"),
        ("input [ {", r"a '\{' is not closed"),
        ("a { b: 1", r"a '\{' is not closed"),
        ("a: [1", r"a '\[' is not closed"),
        ("[a", r"a '\[' is not closed"),
        ("input ] ", "gives input no value"),
        ("a: 1 }", "line 1 has a '}' without a matching bracket"),
        ("a { b: 1 ]", "line 1 has a ']' without a matching bracket"),
        ("a: 1\n\n: 2", "line 3 has no field name where one is expected"),
        ("a: [1 2]", "line 1 has no field name where one is expected"),
        ("a: \x00", "line 1 is not protobuf text"),
        ('\na: "open', "line 2 is not protobuf text"),
        ("a: 1.2.3", "line 1 gives a an invalid number"),
        (f"a: {'9' * 5000}", "line 1 gives a an invalid number"),
        ("a {" * 100, "line 1 is nested deeper than 64"),
        ("a: " + "[" * 100, "line 1 gives a no value"),
    ],
)
def test_text_that_is_malformed_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_text(text)


@given(st.text("ab:{}<>[]\",;'1.-x \n#\\", max_size=60))
@settings(max_examples=500, derandomize=True, database=None, deadline=None)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(ValueError):
        parse_text(text)
