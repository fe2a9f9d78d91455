"""When an idle device waits for more requests before it starts."""

from clockwork.messages.actions import Infer
from clockwork.scheduling.clockwork.batching_delay import MAX_WAIT, PROBE, BatchingDelay
from clockwork.scheduling.clockwork.server_load import ACTION_COST, MAX_LEVEL, STALE, ServerLoad
from clockwork.units import Nanos, ms, us
from scheduling.test_clockwork import ClockworkHarness

QUICK = {1: us(50), 2: us(55), 4: us(60), 8: us(70), 16: us(90)}
SLOW = {1: ms(3), 2: ms(5), 4: ms(9)}
GAP = us(400)


def busy(harness: ClockworkHarness, at: Nanos, share: float = 0.95) -> None:
    harness.state.load = (share, at)


def loaded(times: dict[int, Nanos] = QUICK, share: float = 0.95) -> tuple[ClockworkHarness, Nanos]:
    """Return a server that was busy for a while, and the time; it has answered a request every `GAP`."""
    harness, now = ClockworkHarness(models=("a",), warm=("a",), times=times), ms(1000)
    for i in range(40):
        busy(harness, now, share)
        harness.ask(now, 1000 + i)
        for action in list(harness.gpu().outstanding):
            harness.ends(now + times[1], action, took=times[1])
        now += GAP
        harness.run_until(now)
        for action in list(harness.gpu().outstanding):
            harness.ends(now, action, took=times[1])
    now += MAX_WAIT
    harness.run_until(now)
    for action in list(harness.gpu().outstanding):
        harness.ends(now, action, took=times[1])
    busy(harness, now, share)
    return harness, now


def infers(lines: list[str]) -> list[str]:
    return [line for line in lines if "Infer" in line or "infer" in line]


def test_an_idle_server_starts_a_request_at_once() -> None:
    harness, now = loaded(share=0.3)
    assert infers(harness.ask(now, 1))


def test_a_server_that_was_never_measured_starts_a_request_at_once() -> None:
    assert infers(ClockworkHarness(models=("a",), warm=("a",), times=QUICK).ask(0, 1))


def test_on_a_busy_server_a_device_waits_for_more_requests_and_then_starts() -> None:
    harness, now = loaded()
    harness.scheduler._delay._expected["a"] = (4, now)
    assert not infers(harness.ask(now, 1))
    assert not infers(harness.ask(now + us(10), 2))
    assert not infers(harness.ask(now + us(20), 3))
    lines = infers(harness.ask(now + us(30), 4))
    assert len(lines) == 1
    (action,) = harness.gpu().outstanding.values()
    assert isinstance(action, Infer)
    assert [share.request_id for share in action.inputs] == [1, 2, 3, 4]


def test_a_request_starts_alone_if_no_others_arrive() -> None:
    harness, now = loaded()
    harness.scheduler._delay._expected["a"] = (4, now)
    assert not infers(harness.ask(now, 1))
    assert infers(harness.run_until(now + MAX_WAIT))


def test_a_wait_takes_only_a_part_of_the_slack() -> None:
    harness, now = loaded()
    harness.scheduler._delay._expected["a"] = (8, now)
    assert not infers(harness.ask(now, 1, slo=ms(3)))
    assert infers(harness.run_until(now + ms(1)))


def test_an_inference_that_takes_much_longer_than_an_action_is_not_delayed() -> None:
    harness, now = loaded(SLOW)
    assert infers(harness.ask(now, 1))


def test_a_request_for_another_model_ends_the_wait() -> None:
    harness = ClockworkHarness(models=("a", "b"), warm=("a", "b"), times=QUICK)
    for moment in range(20):
        harness.scheduler._server.note(1.0, ms(moment))
    harness.state.load = (1.0, ms(20))
    harness.scheduler._delay._expected["a"] = (8, ms(20))
    assert not infers(harness.ask(ms(20), 1, "a"))
    harness.ask(ms(20) + us(5), 2, "b")
    harness.run_until(ms(20) + us(600))
    models = {action.model for action in harness.gpu().outstanding.values()}
    assert "a" in models


def test_the_level_rises_and_falls_with_the_load() -> None:
    server = ServerLoad()
    for moment in range(100):
        server.note(1.0, ms(moment))
    assert server.level(ms(99)) == MAX_LEVEL
    server.note(0.8, ms(100))
    assert server.level(ms(100)) == MAX_LEVEL  # neither busy nor calm
    for moment in range(101, 200):
        server.note(0.1, ms(moment))
    assert server.level(ms(199)) == 1.0


def test_a_measurement_of_the_load_counts_once_and_expires() -> None:
    server = ServerLoad()
    delay = BatchingDelay(server)
    for _ in range(100):
        server.note(1.0, ms(1))
    assert server.level(ms(1)) == 1.5
    assert server.action_cost(ms(1)) == 0
    for moment in range(2, 20):
        server.note(1.0, ms(moment))
    assert delay.wanted(ms(19), "a", us(50)) == 2
    assert delay.wanted(ms(20) + STALE, "a", us(50)) == 1
    assert server.action_cost(ms(19)) == ACTION_COST
    assert server.action_cost(ms(20) + STALE) == 0


def sizes_of_a_group(share: float) -> list[int]:
    """Return the batch sizes of 16 requests that arrive together while a device with cheap single rows executes."""
    times = {1: us(8), 2: us(20), 4: us(90), 8: us(160), 16: us(170)}  # measured on a core that the server shares
    harness = ClockworkHarness(models=("a", "b"), warm=("a", "b"), times=times)
    for moment in range(20):
        harness.scheduler._server.note(share, ms(moment))
    harness.state.load = (share, ms(20))
    harness.ask(ms(20), 100, "b")
    for number in range(16):
        harness.ask(ms(20), number, "a")
    now = ms(20)
    while not (sizes := [len(action.inputs) for action in sent_infers(harness) if action.model == "a"]):
        now += us(100)
        harness.run_until(now)
    return sizes


def sent_infers(harness: ClockworkHarness) -> list[Infer]:
    return [action for action in harness.gpu().outstanding.values() if isinstance(action, Infer)]


def test_on_a_busy_server_requests_share_a_batch_although_single_rows_are_cheap_for_the_device() -> None:
    assert sizes_of_a_group(1.0) == [16]


def test_on_an_idle_server_only_the_time_of_the_device_determines_the_batches() -> None:
    assert set(sizes_of_a_group(0.1)) == {1}


def test_there_is_rarely_a_wait_for_a_single_client() -> None:
    harness, now = loaded()
    harness.scheduler._delay._expected["a"] = (1, now)
    assert infers(harness.ask(now, 1))
    busy(harness, now + PROBE)
    assert harness.scheduler._delay.wanted(now + PROBE // 2, "a", us(50)) == 1
    assert harness.scheduler._delay.wanted(now + PROBE + 1, "a", us(50)) == 2
