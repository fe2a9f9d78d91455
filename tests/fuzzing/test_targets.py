"""Runs every fuzzing target with random bytes, and with valid bytes of which some were changed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.targets import SEEDS, TARGETS

EXAMPLES = 400

edits = st.lists(
    st.tuples(
        st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=6) | st.sampled_from([b"\xff" * 4, b"[" * 99])
    ),
    max_size=4,
)


def edited(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return the seed with some bytes removed and others inserted at each place."""
    for place, removed, inserted in changes:
        at = place % (len(seed) + 1)
        seed = seed[:at] + inserted + seed[at + removed :]
    return seed


@pytest.mark.parametrize("target", TARGETS)
def test_valid_seeds_are_accepted(target: str) -> None:
    for seed in SEEDS[target]:
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_random_bytes_do_no_harm(target: str) -> None:
    @given(st.binary(max_size=200))
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    def drive(data: bytes) -> None:
        TARGETS[target](data)

    drive()


@pytest.mark.parametrize("target", TARGETS)
def test_nearly_valid_bytes_do_no_harm(target: str) -> None:
    @given(st.sampled_from(SEEDS[target]), edits)
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    def drive(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
        TARGETS[target](edited(seed, changes))

    drive()
