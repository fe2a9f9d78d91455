"""The allocator of blocks, compared with a simple model."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clockwork.blocks import BlockAllocator


class Taking(RuleBasedStateMachine):
    @initialize(count=st.integers(0, 30))
    def start(self, count: int) -> None:
        self.count = count
        self.blocks = BlockAllocator(count)
        self.taken: dict[int, int] = {}

    @rule(count=st.integers(1, 12))
    def take(self, count: int) -> None:
        used = {block for begin, size in self.taken.items() for block in range(begin, begin + size)}
        fitting = [at for at in range(self.count - count + 1) if not used & set(range(at, at + count))]
        begin = self.blocks.allocate(count)
        assert begin == min(fitting, default=None)
        if begin is not None:
            self.taken[begin] = count

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        begin = data.draw(st.sampled_from(sorted(self.taken)))
        self.blocks.free(begin)
        del self.taken[begin]

    @invariant()
    def as_many_are_taken_as_are_said_to_be(self) -> None:
        assert self.blocks.allocated == sum(self.taken.values())

    def teardown(self) -> None:
        for begin in self.taken:
            self.blocks.free(begin)
        assert self.count == 0 or self.blocks.allocate(self.count) == 0


TestTaking = Taking.TestCase


def test_freeing_blocks_that_were_not_allocated_is_an_error() -> None:
    blocks = BlockAllocator(4)
    assert blocks.allocate(2) == 0
    with pytest.raises(KeyError):
        blocks.free(1)
