"""Version policies are read as Triton writes them, and choose versions as Triton does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.repository.policy import All, Latest, Specific, VersionPolicy, choose, parse_policies, policy_of
from clockwork.runtimes.text_format import parse_text


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Latest(1)),
        ('name: "x"', Latest(1)),
        ("version_policy: { latest { num_versions: 2 } }", Latest(2)),
        ("version_policy { latest { } }", Latest(1)),
        ("version_policy < all < > >", All()),
        ("version_policy: { specific: { versions: [3, 1, 3] } }", Specific((1, 3))),
        ("version_policy { specific { versions: 1, versions: 2 } }", Specific((1, 2))),
        ("version_policy { specific { versions: '5' } }", Specific((5,))),
    ],
)
def test_a_policy_is_read(text: str, policy: VersionPolicy) -> None:
    assert policy_of(parse_text(text)) == policy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version_policy { }", "exactly one of latest, all and specific"),
        ("version_policy { all { } latest { } }", "exactly one of"),
        ("version_policy { all { } } version_policy { all { } }", "exactly one of"),
        ("version_policy: all", "exactly one of"),
        ("version_policy { newest { } }", "unknown policy 'newest'"),
        ("version_policy { all: 1 }", "all in version_policy is not one message"),
        ("version_policy { latest { num_versions: 0 } }", "a whole number of at least 1"),
        ("version_policy { latest { num_versions: 1.5 } }", "a whole number of at least 1"),
        ("version_policy { latest { versions: 1 } }", "latest in version_policy needs num_versions"),
        ("version_policy { specific { } }", "needs versions, a list of 1 to 1000"),
        ("version_policy { specific { versions: [] } }", "needs versions"),
        ("version_policy { specific { versions: -1 } }", "needs versions"),
        ("version_policy { specific { versions: true } }", "needs versions"),
        ("version_policy { specific { versions: [1, x] } }", "needs versions"),
        (f"version_policy {{ specific {{ versions: {list(range(1001))} }} }}", "needs versions"),
    ],
)
def test_a_wrong_policy_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        policy_of(parse_text(text))


def test_an_operators_policies_are_parsed_by_name() -> None:
    texts = ["a=latest", "b=latest:2", "c=all", "d=specific:3,1,3"]
    assert parse_policies(texts) == {"a": Latest(1), "b": Latest(2), "c": All(), "d": Specific((1, 3))}


@pytest.mark.parametrize(
    "text",
    [
        *("net", "=all", "net=", "net=newest", "net=latest:0", "net=latest:1,2", "net=latest:", "net=latest:x"),
        *("net=all:1", "net=specific", "net=specific:", "net=specific:1,", "net=specific:-1"),
        f"net=specific:{'1,' * 1000}1",
    ],
)
def test_a_wrong_policy_of_an_operator_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"invalid NAME=POLICY .*; examples: net=latest:2"):
        parse_policies([text])


def test_two_policies_for_one_model_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="model 'net' has two version policies; give one"):
        parse_policies(["net=all", "net=latest"])


def test_a_model_without_versions_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="model 'net' has no version"):
        choose(Latest(), [], "net")


@given(st.sets(st.integers(0, 50), min_size=1), st.integers(1, 60), st.sets(st.integers(0, 50), min_size=1))
@settings(max_examples=200, derandomize=True, database=None, deadline=None)
def test_what_a_policy_chooses_exists_and_is_ordered(there: set[int], count: int, named: set[int]) -> None:
    assert choose(Latest(count), there, "net") == tuple(sorted(there)[-count:])
    assert choose(All(), there, "net") == tuple(sorted(there))
    if named <= there:
        assert choose(Specific(tuple(sorted(named))), there, "net") == tuple(sorted(named))
    else:
        with pytest.raises(InvalidModelError, match="existing versions: "):
            choose(Specific(tuple(sorted(named))), there, "net")
