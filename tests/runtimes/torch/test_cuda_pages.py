"""A weights cache of physical pages, and ranges of addresses, on a driver that checks every call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtimes.torch import programs  # noqa: F401 - skips these tests without PyTorch
from runtimes.torch.fake_driver import FakeDriver

from clockwork.errors import InvalidRequestError, ServerError  # isort: skip
from clockwork.runtimes.torch.cuda.driver import CudaError
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.cuda.ranges import WeightsRange
from clockwork.units import MIB

PAGE = 4 * MIB


def driver(limit: int = 1000) -> FakeDriver:
    fake = FakeDriver(limit)
    fake.attach()
    return fake


class Loads(RuleBasedStateMachine):
    """Ranges are created, mapped, unmapped and closed, and some calls of the driver fail."""

    @initialize(pages=st.integers(1, 12))
    def start(self, pages: int) -> None:
        self.driver = driver()
        self.cache = PageCache(self.driver, pages, PAGE)
        self.total = pages
        self.ranges: list[tuple[WeightsRange, int]] = []

    @rule(pages=st.integers(1, 6))
    def reserve(self, pages: int) -> None:
        if len(self.ranges) < 20:
            self.ranges.append((WeightsRange(self.driver, self.cache, pages), pages))

    @precondition(lambda self: self.ranges)
    @rule(data=st.data(), failing=st.sampled_from(["", "", "", "map", "allow"]))
    def load(self, data: st.DataObject, failing: str) -> None:
        weights, pages = data.draw(st.sampled_from(self.ranges))
        if weights.mapped:
            return
        address, free = weights.address, self.cache.free
        self.driver.failing = failing
        if pages > free:
            with pytest.raises(ServerError, match=f"weights need {pages} pages"):
                weights.map()
        elif failing:
            with pytest.raises(CudaError):
                weights.map()
        else:
            weights.map()
        assert weights.mapped == (pages <= free and not failing)
        self.driver.failing = ""
        assert weights.address == address
        assert self.cache.free == free - (pages if weights.mapped else 0)

    @precondition(lambda self: self.ranges)
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        weights, _ = data.draw(st.sampled_from(self.ranges))
        weights.unmap()
        assert not weights.mapped

    @precondition(lambda self: self.ranges)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        drawn = data.draw(st.sampled_from(self.ranges))
        drawn[0].close()
        self.ranges.remove(drawn)

    @invariant()
    def the_accounting_matches_the_mapped_pages(self) -> None:
        used = sum(pages for weights, pages in self.ranges if weights.mapped)
        assert self.cache.free == self.total - used
        assert len(self.driver.mapped) == used
        assert len(self.driver.memory) == len(self.ranges)

    def teardown(self) -> None:
        for weights, _ in self.ranges:
            weights.close()
        self.cache.close()
        self.driver.check_nothing_is_left()


TestLoads = Loads.TestCase


@given(limit=st.integers(0, 9), wanted=st.integers(1, 9))
def test_the_error_for_a_cache_that_is_too_large_states_what_would_fit(limit: int, wanted: int) -> None:
    fake = driver(2 * limit)  # pages of twice the granularity
    if wanted <= limit:
        PageCache(fake, wanted, PAGE).close()
    else:
        with pytest.raises(
            InvalidRequestError,
            match=f"weights cache has {wanted} pages of 4.0 MiB; fake device has memory for {limit}: ",
        ):
            PageCache(fake, wanted, PAGE)
    fake.check_nothing_is_left()


def test_the_page_size_is_a_multiple_of_the_granularity() -> None:
    with pytest.raises(InvalidRequestError, match=r"page size 3.0 MiB is not possible .* a multiple of 2.0 MiB"):
        PageCache(driver(), 1, 3 * MIB)


def test_pinned_memory_stays_within_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    fake = driver()
    budget = PinnedBudget(fake, 10 * MIB)
    assert budget.pin(1 * PAGE, 6 * MIB)
    assert not budget.pin(3 * PAGE, 6 * MIB)
    assert not budget.pin(3 * PAGE, 6 * MIB)
    assert [record.getMessage() for record in caplog.records] == [
        "weights are copied from memory that is not pinned, which is slower: the limit of 10.0 MiB is reached"
    ]
    budget.unpin(3 * PAGE)
    budget.unpin(1 * PAGE)
    assert budget.pin(3 * PAGE, 6 * MIB)
    budget.unpin(3 * PAGE)
    fake.failing = "pin"
    assert not budget.pin(3 * PAGE, 6 * MIB)
    fake.check_nothing_is_left()
