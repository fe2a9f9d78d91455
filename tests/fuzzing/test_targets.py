"""Strangers' bytes: noise, and what is right with a few bytes changed, over everything that reads bytes."""

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
    """The seed with, at each place, some bytes taken out and others put in."""
    for place, out, into in changes:
        at = place % (len(seed) + 1)
        seed = seed[:at] + into + seed[at + out :]
    return seed


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_right_is_taken(target: str) -> None:
    for seed in SEEDS[target]:
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_noise_harms_nobody(target: str) -> None:
    @given(st.binary(max_size=200))
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    def drive(data: bytes) -> None:
        TARGETS[target](data)

    drive()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_nearly_right_harms_nobody(target: str) -> None:
    @given(st.sampled_from(SEEDS[target]), edits)
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    def drive(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
        TARGETS[target](edited(seed, changes))

    drive()
