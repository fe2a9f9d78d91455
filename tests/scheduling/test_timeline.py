"""The timeline of planned batches gives the same times as a search through all batches."""

from itertools import pairwise
from random import Random

import pytest

from clockwork.scheduling.clockwork.timeline import FAR, Timeline, TimelineEntry
from clockwork.units import Nanos


def a_batch(reserved: Nanos, due: Nanos, ready: Nanos = 0) -> TimelineEntry:
    batch = TimelineEntry(reserved)
    batch.due, batch.ready = due, ready
    return batch


def moments(batches: list[TimelineEntry], origin: Nanos) -> tuple[list[Nanos], list[Nanos], list[Nanos]]:
    """Return for each batch when the device is free for it, when it ends, and its slack, by going through all."""
    free, ends, at = [], [], origin
    for batch in batches:
        free.append(at)
        at = max(at, batch.ready) + batch.reserved
        ends.append(at)
    slack, least = [], FAR
    for batch, end in zip(reversed(batches), reversed(ends), strict=True):
        least = min(least, batch.due - end)
        slack.append(least)
    return free, ends, slack[::-1]


def check(timeline: Timeline[TimelineEntry], batches: list[TimelineEntry], origin: Nanos) -> None:
    assert list(timeline) == batches
    assert len(timeline) == len(batches)
    assert bool(timeline) == bool(batches)
    free, ends, slack = moments(batches, origin)
    assert timeline.end(origin) == (ends[-1] if ends else origin)
    assert [timeline.free_at(batch, origin) for batch in batches] == free
    assert [timeline.slack(batch, at) for batch, at in zip(batches, free, strict=True)] == slack
    if batches:
        assert timeline.first is batches[0]
    for due in (0, 150, 300, 450, 600, FAR):
        place = len(batches)
        while place and batches[place - 1].due > due:
            place -= 1
        assert timeline.place_for(due) is (batches[place] if place < len(batches) else None)


@pytest.mark.parametrize("seed", range(20))
def test_a_timeline_gives_the_same_times_as_a_search_through_all_batches(seed: int) -> None:
    chance = Random(seed)
    timeline, batches = Timeline[TimelineEntry](), list[TimelineEntry]()
    check(timeline, batches, 5)
    for _ in range(150):
        change = chance.random()
        if change < 0.55 or not batches:
            ready = chance.choice((0, 0, 0, chance.randrange(400)))
            batch = a_batch(chance.randint(1, 30), chance.randrange(600), ready)
            place = chance.choice((0, len(batches), chance.randrange(len(batches) + 1)))
            timeline.insert(batch, batches[place] if place < len(batches) else None)
            batches.insert(place, batch)
        elif change < 0.8:
            batch = batches.pop(chance.choice((0, chance.randrange(len(batches)))))
            timeline.remove(batch)
        else:
            batch = chance.choice(batches)
            batch.reserved, batch.due, batch.ready = chance.randint(1, 30), chance.randrange(600), 0
            timeline.update(batch)
        check(timeline, batches, chance.randrange(100))


def depth(timeline: Timeline[TimelineEntry]) -> int:
    deepest = 0
    for batch in timeline:
        node: TimelineEntry | None = batch
        steps = 0
        while node is not None:
            node, steps = node.parent, steps + 1
        deepest = max(deepest, steps)
    return deepest


@pytest.mark.parametrize("order", ["at the end", "at the front", "by halves"])
def test_the_tree_stays_flat_in_any_order_of_changes(order: str) -> None:
    timeline = Timeline[TimelineEntry]()
    depths = []
    for size in (100, 1_000, 10_000):
        while len(timeline) < size:
            batch = a_batch(3, len(timeline))
            before = None
            if timeline and order == "at the front":
                before = timeline.first
            elif order == "by halves":
                before = timeline.place_for(len(timeline) // 2)
            timeline.insert(batch, before)
        depths.append(depth(timeline))
    assert depths[-1] < 60
    assert all(later - earlier < 20 for earlier, later in pairwise(depths)), depths
    while len(timeline) > 100:
        timeline.remove(timeline.first)
    assert depth(timeline) < 30
