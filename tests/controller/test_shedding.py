"""Refusals because of the requests that wait for the server itself."""

from hypothesis import given
from hypothesis import strategies as st

from builders import infer_request
from clockwork.controller.shedding import MAX_COST, MAX_WAITING, SEED_COST, Shedder
from clockwork.messages.status import Status
from clockwork.units import MICROSECOND, MILLISECOND, SECOND

NOW = 1_000 * SECOND
SLO = 100 * MILLISECOND


def behind(waiting: int, cost: int = SEED_COST) -> Shedder:
    shedder = Shedder()
    shedder.cost = cost
    for _ in range(waiting):
        shedder.queued(SLO)
    return shedder


def take(shedder: Shedder, now: int, count: int) -> None:
    for _ in range(count):
        shedder.withdrawn(SLO)
    shedder.taken(now, count)


def test_no_request_is_refused_while_none_waits() -> None:
    assert Shedder().refuses(NOW, NOW, SLO) is None
    assert Shedder().refuses(NOW, NOW - SLO // 2, SLO) is None


def test_a_request_whose_deadline_passed_before_it_was_read_is_refused() -> None:
    shed = Shedder().refuses(NOW, NOW - SLO - 1, SLO)
    assert shed is not None
    assert shed.wait == SLO + 1


def test_a_request_may_wait_for_three_tenths_of_its_slo() -> None:
    cost = 250 * MICROSECOND
    assert behind(120, cost).refuses(NOW, NOW, SLO) is None
    shed = behind(121, cost).refuses(NOW, NOW, SLO)
    assert shed is not None
    assert shed.wait == shed.retry_after == 121 * cost


def test_the_time_that_a_request_has_waited_already_counts() -> None:
    shedder = behind(80, 250 * MICROSECOND)  # 20 ms
    assert shedder.refuses(NOW, NOW - 79 * MILLISECOND, SLO) is None
    assert shedder.refuses(NOW, NOW - 80 * MILLISECOND, SLO) is not None
    assert shedder.refuses(NOW, NOW - 79 * MILLISECOND, SLO, least=MILLISECOND) is not None


def test_a_short_queue_refuses_no_request_with_a_short_slo() -> None:
    assert behind(2, 500 * MICROSECOND).refuses(NOW, NOW, 5 * MILLISECOND) is None


def test_a_burst_with_a_long_slo_hardly_delays_other_requests() -> None:
    shedder = Shedder()
    for _ in range(MAX_WAITING - 1):
        assert shedder.refuses(NOW, NOW, 60 * SECOND) is None
        shedder.queued(60 * SECOND)
    assert shedder.refuses(NOW, NOW, SLO) is None
    assert shedder.wait(SLO) == 0
    for _ in range(30):
        shedder.queued(SLO)
    assert shedder.wait(SLO) == 40 * shedder.cost
    assert shedder.refuses(NOW, NOW, 3600 * SECOND) is not None, "the queue is full"


def test_the_cost_follows_the_rate_at_which_requests_are_handled() -> None:
    shedder = behind(1_000)
    now = NOW
    for _ in range(90):
        now += 4 * MILLISECOND
        take(shedder, now, 10)
    assert abs(shedder.cost - 400 * MICROSECOND) < 20 * MICROSECOND


def test_a_pause_without_waiting_requests_does_not_count_as_cost() -> None:
    shedder = behind(2)
    take(shedder, NOW, 2)
    shedder.queued(SLO)
    shedder.queued(SLO)
    take(shedder, NOW + 10 * SECOND, 1)
    assert shedder.cost == SEED_COST
    take(shedder, NOW + 20 * SECOND, 1)
    assert shedder.cost < SEED_COST + MAX_COST // 40


def test_a_withdrawn_request_no_longer_counts() -> None:
    shedder = behind(1)
    shedder.withdrawn(SLO)
    assert shedder.waiting == 0
    assert shedder.wait(SLO) == 0


def test_the_response_is_a_refusal_with_a_retry_time() -> None:
    shed = behind(201).refuses(NOW, NOW, SLO)
    assert shed is not None
    response = shed.response(infer_request(7))
    assert (response.id, response.status) == (7, Status.CONTROLLER_COULD_NOT_START_IN_TIME)
    assert response.retry_after == 201 * SEED_COST
    waiting = "the server is overloaded: requests wait 40.2 ms before it handles them"
    assert response.message == f"{waiting}; retry, or set a longer SLO"


@given(st.lists(st.tuples(st.integers(0, 50 * MILLISECOND), st.integers(1, 20)), max_size=50))
def test_the_cost_stays_between_the_measured_times(turns: list[tuple[int, int]]) -> None:
    shedder, now = behind(2_000), NOW
    for passed, count in turns:
        now += passed
        take(shedder, now, count)
        assert 0 <= shedder.cost <= max(SEED_COST, MAX_COST)


def test_one_stop_of_the_process_hardly_changes_the_cost() -> None:
    shedder = behind(1_000)
    shedder.taken(NOW, 25)
    shedder.taken(NOW + 3 * SECOND, 25)
    assert shedder.cost < 2.5 * SEED_COST
    shedder.urgent = 50
    assert shedder.refuses(NOW, NOW, SLO) is None
