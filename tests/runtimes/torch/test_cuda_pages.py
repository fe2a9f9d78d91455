"""A weights cache of physical pages, and ranges of addresses, on a driver that checks every call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtimes.torch import programs  # noqa: F401 - skips these tests where there is no PyTorch
from runtimes.torch.fake_driver import FakeDriver

from clockwork.errors import InvalidRequestError, ServerError  # isort: skip
from clockwork.runtimes.torch.cuda.driver import CudaError
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.runtimes.torch.cuda.pinned import PinnedBudget
from clockwork.runtimes.torch.cuda.ranges import WeightsRange
from clockwork.units import MIB

PAGE = 4 * MIB


def driver(limit: int = 1000) -> FakeDriver:
    made = FakeDriver(limit)
    made.attach()
    return made


class Loads(RuleBasedStateMachine):
    """Ranges come and go, are mapped and unmapped, and calls of the driver fail now and then."""

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
        its, pages = data.draw(st.sampled_from(self.ranges))
        if its.mapped:
            return
        address, free = its.address, self.cache.free
        self.driver.failing = failing
        if pages > free:
            with pytest.raises(ServerError, match=f"{pages} pages are needed"):
                its.map()
        elif failing:
            with pytest.raises(CudaError):
                its.map()
        else:
            its.map()
        assert its.mapped == (pages <= free and not failing)
        self.driver.failing = ""
        assert its.address == address
        assert self.cache.free == free - (pages if its.mapped else 0)

    @precondition(lambda self: self.ranges)
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        its, _ = data.draw(st.sampled_from(self.ranges))
        its.unmap()
        assert not its.mapped

    @precondition(lambda self: self.ranges)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        its = data.draw(st.sampled_from(self.ranges))
        its[0].close()
        self.ranges.remove(its)

    @invariant()
    def pages_are_where_they_are_said_to_be(self) -> None:
        used = sum(pages for its, pages in self.ranges if its.mapped)
        assert self.cache.free == self.total - used
        assert len(self.driver.mapped) == used
        assert len(self.driver.memory) == len(self.ranges)

    def teardown(self) -> None:
        for its, _ in self.ranges:
            its.close()
        self.cache.close()
        self.driver.check_nothing_is_left()


TestLoads = Loads.TestCase


@given(limit=st.integers(0, 9), wanted=st.integers(1, 9))
def test_a_cache_that_does_not_fit_says_what_would(limit: int, wanted: int) -> None:
    its = driver(2 * limit)  # pages of twice the granularity
    if wanted <= limit:
        PageCache(its, wanted, PAGE).close()
    else:
        with pytest.raises(InvalidRequestError, match=f"fake device has room for {limit} pages of 4.0 MiB; {wanted} w"):
            PageCache(its, wanted, PAGE)
    its.check_nothing_is_left()


def test_a_page_has_a_size_that_the_device_allows() -> None:
    with pytest.raises(InvalidRequestError, match=r"pages of 3.0 MiB are not possible .* in multiples of 2.0 MiB"):
        PageCache(driver(), 1, 3 * MIB)


def test_no_more_is_pinned_than_the_budget_allows(caplog: pytest.LogCaptureFixture) -> None:
    its = driver()
    budget = PinnedBudget(its, 10 * MIB)
    assert budget.pin(1 * PAGE, 6 * MIB)
    assert not budget.pin(3 * PAGE, 6 * MIB)
    assert not budget.pin(3 * PAGE, 6 * MIB)
    assert [it.getMessage() for it in caplog.records] == [
        "weights are copied from memory that is not pinned, which takes longer: more than 10.0 MiB would be pinned"
    ]
    budget.unpin(3 * PAGE)
    budget.unpin(1 * PAGE)
    assert budget.pin(3 * PAGE, 6 * MIB)
    budget.unpin(3 * PAGE)
    its.failing = "pin"
    assert not budget.pin(3 * PAGE, 6 * MIB)
    its.check_nothing_is_left()
