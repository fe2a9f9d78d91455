"""The page count of a weights cache: never negative, never above the total, and in order of last use."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.pages import PageCache, pages_for


def test_pages_are_taken_and_freed() -> None:
    cache = PageCache(4)
    assert cache.take("a", 3)
    assert (cache.used, cache.free, cache.pages_of("a"), "a" in cache, len(cache)) == (3, 1, 3, True, 1)
    assert cache.give_back("a") == 3
    assert (cache.used, cache.free, cache.pages_of("a"), "a" in cache, len(cache)) == (0, 4, 0, False, 0)


def test_a_request_for_too_many_pages_changes_nothing() -> None:
    cache = PageCache(4)
    cache.take("a", 3)
    assert not cache.take("b", 2)
    assert list(cache) == ["a"]
    assert cache.take("b", 1)
    assert cache.free == 0


def test_owners_are_in_order_of_last_use() -> None:
    cache = PageCache(4)
    for owner in "abcd":
        cache.take(owner, 1)
    cache.touch("b")
    cache.touch("a")
    assert list(cache) == ["c", "d", "b", "a"]


@pytest.mark.parametrize("total", [-1, -100])
def test_a_cache_cannot_have_a_negative_number_of_pages(total: int) -> None:
    with pytest.raises(ValueError, match=f"cache has {total} pages"):
        PageCache(total)


@pytest.mark.parametrize(("owner", "pages"), [("a", 1), ("b", -1)])
def test_an_owner_cannot_take_pages_twice_or_a_negative_number(owner: str, pages: int) -> None:
    cache = PageCache(4)
    cache.take("a", 1)
    with pytest.raises(ValueError, match="cannot take"):
        cache.take(owner, pages)
    assert cache.used == 1


def test_an_owner_without_pages_cannot_free_or_use_them() -> None:
    cache = PageCache(4)
    with pytest.raises(KeyError):
        cache.give_back("a")
    with pytest.raises(KeyError):
        cache.touch("a")


@pytest.mark.parametrize(("size", "pages"), [(0, 1), (1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_a_model_takes_whole_pages_and_at_least_one(size: int, pages: int) -> None:
    assert pages_for(size, 16) == pages


STEPS = st.lists(st.tuples(st.sampled_from(["take", "give", "touch"]), st.sampled_from("abcde"), st.integers(0, 4)))


@settings(derandomize=True, database=None)
@given(STEPS)
def test_the_pages_of_all_owners_always_add_up(steps: list[tuple[str, str, int]]) -> None:
    cache = PageCache(8)
    owned: dict[str, int] = {}
    for step, owner, pages in steps:
        if step == "take" and owner not in owned:
            fits = sum(owned.values()) + pages <= 8
            assert cache.take(owner, pages) is fits
            if fits:
                owned[owner] = pages
        elif step == "give" and owner in owned:
            assert cache.give_back(owner) == owned.pop(owner)
        elif step == "touch" and owner in owned:
            cache.touch(owner)
            owned[owner] = owned.pop(owner)
        assert list(cache) == list(owned)
        assert cache.used == sum(owned.values()) == 8 - cache.free
