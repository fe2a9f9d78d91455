"""The queues behave like plain lists."""

from itertools import islice
from random import Random

import pytest

from builders import model_info, model_state, pending
from clockwork.scheduling import queues
from clockwork.scheduling.queues import Ordered, Waiting


@pytest.mark.parametrize("seed", range(10))
def test_ordered_behaves_like_a_sorted_list(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_CHUNK", 8)
    chance = Random(seed)
    ordered: Ordered[tuple[int, int]] = Ordered()
    plain: list[tuple[int, int]] = []
    for number in range(500):
        if chance.random() < 0.6 or not plain:
            entry = (chance.randrange(50), number)
            ordered.add(entry)
            plain = sorted([*plain, entry])
        else:
            ordered.remove(plain.pop(chance.choice((0, -1, chance.randrange(len(plain))))))
        assert list(ordered) == plain
        if plain:
            place = chance.randrange(len(plain))
            assert list(ordered.since(plain[place], 20)) == plain[place : place + 20]


def test_waiting_requests_keep_their_order_and_their_groups() -> None:
    models = [model_state(model_info(name)) for name in "ab"]
    requests = [pending(number, models[number % 2]) for number in range(10)]
    waiting = Waiting()
    for request in requests:
        waiting.add(request)
    assert len(waiting) == 10
    assert [request.id for request in waiting.like_first()] == [0, 2, 4, 6, 8]
    for number in (0, 4, 4, 1):
        waiting.discard(requests[number])
    assert [request.id for request in waiting] == [2, 3, 5, 6, 7, 8, 9]
    assert (waiting.first.id, [request.id for request in waiting.like_first()]) == (2, [2, 6, 8])
    for request in requests:
        waiting.discard(request)
    assert not len(waiting)
    assert not waiting._groups


def test_the_requests_considered_for_a_batch_are_limited() -> None:
    model = model_state(model_info("a"))
    waiting = Waiting()
    for number in range(queues.MAX_CONSIDERED + 10):
        waiting.add(pending(number, model))
    assert [request.id for request in waiting.like_first()] == list(range(queues.MAX_CONSIDERED))
    assert [request.id for request in islice(waiting, 3)] == [0, 1, 2]
