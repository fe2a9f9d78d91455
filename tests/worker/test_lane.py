from clockwork.messages.actions import Infer
from clockwork.units import FOREVER
from clockwork.worker.lane import MAX_QUEUED, Entry, Lane


def entry(name: int, earliest: int = 0, latest: int = FOREVER) -> Entry:
    return Entry(Infer(name, 0, "m", ()), earliest, latest)


def a_lane(*entries: Entry, overtaking: bool = True) -> Lane:
    lane = Lane(overtaking)
    for entry in entries:
        assert lane.push(entry)
        lane.check_invariants()
    return lane


def ids(entries: list[Entry]) -> list[int]:
    return [entry.action.id for entry in entries]


def free(_: Entry) -> bool:
    return False


def drain(lane: Lane, now: int) -> list[int]:
    taken = []
    while (due := lane.take_due(now, free)) is not None:
        taken.append(due.action.id)
        lane.check_invariants()
    return taken


def test_actions_start_in_order_of_earliest_and_then_of_arrival() -> None:
    lane = a_lane(entry(1, 30), entry(2, 10), entry(3, 10), entry(4, 20))
    assert drain(lane, 30) == [2, 3, 4, 1]


def test_no_action_starts_before_its_earliest() -> None:
    lane = a_lane(entry(1, 10))
    assert lane.next_start(free) == 10
    assert drain(lane, 9) == []
    assert drain(lane, 10) == [1]
    assert lane.next_start(free) is None


def test_an_action_is_late_the_nanosecond_after_its_latest() -> None:
    lane = a_lane(entry(1, 0, 10), entry(2, 0, 5), entry(3, 0))
    assert lane.next_expiry() == 6
    assert ids(lane.take_late(5)) == []
    assert ids(lane.take_late(6)) == [2]
    assert lane.next_expiry() == 11
    assert drain(lane, 10) == [1, 3]
    assert lane.next_expiry() is None


def test_a_late_action_leaves_the_queue_from_any_place() -> None:
    lane = a_lane(entry(1, 1), entry(2, 2, 3), entry(3, 3))
    assert ids(lane.take_late(4)) == [2]
    lane.check_invariants()
    assert drain(lane, 4) == [1, 3]


def test_an_action_whose_window_is_empty_is_late_when_its_latest_has_passed() -> None:
    lane = a_lane(entry(1, 10, 5))
    assert ids(lane.take_late(6)) == [1]


def test_no_action_starts_while_another_runs() -> None:
    lane = a_lane(entry(1))
    lane.running = entry(0)
    assert lane.take_due(0, free) is None
    assert lane.next_start(free) is None


def test_others_pass_a_blocked_action_only_in_a_lane_with_overtaking() -> None:
    for overtaking, taken in ((True, 2), (False, None)):
        lane = a_lane(entry(1), entry(2), overtaking=overtaking)
        due = lane.take_due(0, lambda waiting: waiting.action.id == 1)
        assert (due.action.id if due else None) == taken


def test_a_blocked_action_causes_no_wakeup() -> None:
    lane = a_lane(entry(1, 5, 9), entry(2, 7))
    assert lane.next_start(lambda waiting: waiting.action.id == 1) == 7
    assert lane.next_start(lambda _: True) is None
    assert lane.next_expiry() == 10


def test_a_queue_has_a_limit() -> None:
    lane = a_lane()
    for i in range(MAX_QUEUED):
        assert lane.push(entry(i))
    assert not lane.push(entry(MAX_QUEUED))
    assert len(lane) == MAX_QUEUED
    lane.check_invariants()


def test_entries_of_actions_that_started_in_time_do_not_accumulate() -> None:
    lane = a_lane()
    for i in range(1000):
        lane.push(entry(i, 0, FOREVER - 1))
        assert drain(lane, 0) == [i]
    assert len(lane._expiries) <= 66


def test_a_cleared_lane_is_empty() -> None:
    lane = a_lane(entry(1, 0, 5), entry(2))
    lane.clear()
    lane.check_invariants()
    assert len(lane) == 0
    assert lane.next_start(free) is None
    assert lane.next_expiry() is None
