"""When an idle device waits for company: the scheduler as a table, with a server that is busy or not."""

from clockwork.messages.actions import Infer
from clockwork.scheduling.clockwork.company import MAX_LEVEL, MAX_WAIT, PROBE, STALE, Company
from clockwork.units import Nanos, ms, us
from scheduling.test_clockwork import Bench

QUICK = {1: us(50), 2: us(55), 4: us(60), 8: us(70), 16: us(90)}
SLOW = {1: ms(3), 2: ms(5), 4: ms(9)}
GAP = us(400)


def busy(bench: Bench, at: Nanos, share: float = 0.95) -> None:
    bench.state.load = (share, at)


def loaded(times: dict[int, Nanos] = QUICK, share: float = 0.95) -> tuple[Bench, Nanos]:
    """A server that has been as busy for a while, and the time; requests came every `GAP` and were answered."""
    bench, now = Bench(models=("a",), warm=("a",), times=times), ms(1000)
    for i in range(40):
        busy(bench, now, share)
        bench.ask(now, 1000 + i)
        for action in list(bench.gpu().outstanding):
            bench.ends(now + times[1], action, took=times[1])
        now += GAP
        bench.run_until(now)
        for action in list(bench.gpu().outstanding):
            bench.ends(now, action, took=times[1])
    now += MAX_WAIT
    bench.run_until(now)
    for action in list(bench.gpu().outstanding):
        bench.ends(now, action, took=times[1])
    busy(bench, now, share)
    return bench, now


def infers(said: list[str]) -> list[str]:
    return [line for line in said if "Infer" in line or "infer" in line]


def test_an_idle_server_starts_a_request_at_once() -> None:
    bench, now = loaded(share=0.3)
    assert infers(bench.ask(now, 1))


def test_a_server_that_was_never_measured_starts_a_request_at_once() -> None:
    assert infers(Bench(models=("a",), warm=("a",), times=QUICK).ask(0, 1))


def test_a_busy_server_waits_for_company_and_starts_when_it_is_there() -> None:
    bench, now = loaded()
    bench.scheduler._company._expected["a"] = (4, now)
    assert not infers(bench.ask(now, 1))
    assert not infers(bench.ask(now + us(10), 2))
    assert not infers(bench.ask(now + us(20), 3))
    said = infers(bench.ask(now + us(30), 4))
    assert len(said) == 1
    (action,) = bench.gpu().outstanding.values()
    assert isinstance(action, Infer)
    assert [share.request_id for share in action.inputs] == [1, 2, 3, 4]


def test_a_wait_ends_without_company_and_the_request_goes_alone() -> None:
    bench, now = loaded()
    bench.scheduler._company._expected["a"] = (4, now)
    assert not infers(bench.ask(now, 1))
    assert infers(bench.run_until(now + MAX_WAIT))


def test_a_wait_takes_a_part_of_the_slack_only() -> None:
    bench, now = loaded()
    bench.scheduler._company._expected["a"] = (8, now)
    assert not infers(bench.ask(now, 1, slo=ms(3)))
    assert infers(bench.run_until(now + ms(1)))


def test_an_inference_that_takes_much_longer_than_an_action_is_not_delayed() -> None:
    bench, now = loaded(SLOW)
    assert infers(bench.ask(now, 1))


def test_another_model_ends_the_wait() -> None:
    bench = Bench(models=("a", "b"), warm=("a", "b"), times=QUICK)
    for moment in range(20):
        bench.scheduler._company.note_load(1.0, ms(moment))
    bench.state.load = (1.0, ms(20))
    bench.scheduler._company._expected["a"] = (8, ms(20))
    assert not infers(bench.ask(ms(20), 1, "a"))
    bench.ask(ms(20) + us(5), 2, "b")
    bench.run_until(ms(20) + us(600))
    models = {action.model for action in bench.gpu().outstanding.values()}
    assert "a" in models


def test_the_level_rises_with_the_load_and_falls_without() -> None:
    company = Company()
    for moment in range(100):
        company.note_load(1.0, ms(moment))
    assert company._level == MAX_LEVEL
    company.note_load(0.8, ms(100))
    assert company._level == MAX_LEVEL  # neither busy nor calm
    for moment in range(101, 200):
        company.note_load(0.1, ms(moment))
    assert company._level == 1.0


def test_a_measurement_counts_once_and_not_for_long() -> None:
    company = Company()
    for _ in range(100):
        company.note_load(1.0, ms(1))
    assert company._level == 1.5
    for moment in range(2, 20):
        company.note_load(1.0, ms(moment))
    assert company.wanted(ms(19), "a", us(50)) == 2
    assert company.wanted(ms(20) + STALE, "a", us(50)) == 1


def test_a_client_that_is_alone_is_waited_for_rarely() -> None:
    bench, now = loaded()
    bench.scheduler._company._expected["a"] = (1, now)
    assert infers(bench.ask(now, 1))
    busy(bench, now + PROBE)
    assert bench.scheduler._company.wanted(now + PROBE // 2, "a", us(50)) == 1
    assert bench.scheduler._company.wanted(now + PROBE + 1, "a", us(50)) == 2
