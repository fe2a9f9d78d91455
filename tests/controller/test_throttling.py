"""Refusals of requests before the scheduler, because it would refuse most of them."""

from clockwork.controller.throttling import HEADROOM, MEMORY, MIN_COUNT, TRICKLE, WINDOW, Throttle
from clockwork.units import Nanos, ms

SLO = ms(100)


def play(throttle: Throttle, now: Nanos, count: int, capacity: int, slo: Nanos = SLO) -> tuple[int, int]:
    """Send requests evenly within `WINDOW`; the scheduler admits ``capacity`` of the requests that it gets.

    Return the numbers of requests that it got and admitted.
    """
    seen = admitted = 0
    for number in range(count):
        at = now + number * WINDOW // count
        if throttle.refuses(at, "m", slo) is not None:
            continue
        seen += 1
        fits = admitted < (number + 1) * capacity / count
        admitted += fits
        throttle.note(at, "m", admitted=fits, slo=slo, retry_after=ms(7))
    return seen, admitted


def test_the_scheduler_gets_every_request_while_it_admits_all() -> None:
    throttle = Throttle()
    assert play(throttle, 0, 1000, 1000) == (1000, 1000)


def test_under_overload_the_scheduler_gets_little_more_than_it_admits() -> None:
    throttle = Throttle()
    for turn in range(5):
        seen, admitted = play(throttle, turn * WINDOW, 3000, 300)
    assert admitted >= 295
    assert seen <= 1.5 * HEADROOM * admitted


def test_requests_are_admitted_at_once_when_the_load_falls() -> None:
    throttle = Throttle()
    for turn in range(5):
        play(throttle, turn * WINDOW, 3000, 300)
    seen, admitted = play(throttle, 5 * WINDOW, 300, 300)
    assert admitted > 200
    seen, admitted = play(throttle, 6 * WINDOW, 300, 300)
    assert (seen, admitted) == (300, 300)


def test_some_requests_go_to_the_scheduler_even_if_it_admits_none() -> None:
    throttle = Throttle()
    play(throttle, 0, 1000, 0)
    seen, _ = play(throttle, WINDOW, 1000, 0)
    assert 0.8 * TRICKLE * 1000 <= seen <= 1.5 * TRICKLE * 1000


def test_a_request_with_a_longer_slo_than_the_refused_ones_goes_to_the_scheduler() -> None:
    throttle = Throttle()
    play(throttle, 0, 1000, 0)
    assert all(throttle.refuses(WINDOW, "m", SLO + 1) is None for _ in range(100))
    assert any(throttle.refuses(WINDOW, "m", SLO) == ms(7) for _ in range(100))


def test_a_refusal_is_forgotten_after_a_while_and_few_requests_are_no_overload() -> None:
    throttle = Throttle()
    for _ in range(int(MIN_COUNT) - 1):
        throttle.note(0, "m", admitted=False, slo=SLO)
    assert all(throttle.refuses(0, "m", SLO) is None for _ in range(100))
    play(throttle, 0, 1000, 0)
    assert all(throttle.refuses(WINDOW + MEMORY + 1, "m", SLO) is None for _ in range(100))


def test_models_are_counted_separately() -> None:
    throttle = Throttle()
    play(throttle, 0, 1000, 0)
    assert all(throttle.refuses(WINDOW, "another", SLO) is None for _ in range(100))
