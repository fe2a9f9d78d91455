"""What is refused before a front end does anything for a request."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import uvloop

from clockwork.controller.config import ControllerConfig
from clockwork.controller.shedding import SEED_COST
from clockwork.controller.throttling import Throttle
from clockwork.host.reception import BUSY_FOR, MAX_MODELS, REMEMBERED_SLOS, Reception
from clockwork.units import Nanos, ms


class SetClock:
    def __init__(self) -> None:
        self.at: Nanos = 10**12

    def now(self) -> Nanos:
        return self.at


class Bench:
    """A reception and what it reports."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.shed: list[dict[str, int]] = []
        self.loads: list[float] = []
        self.throttle = Throttle()
        config = ControllerConfig(default_slo=ms(500), model_slos={"quick": ms(20)})
        loop = asyncio.get_running_loop()
        self.reception = Reception(loop, self.clock, config, self.shed.append, self.loads.append, self.throttle)

    def queue(self, count: int) -> None:
        for _ in range(count):
            self.reception.inbox.shedder.queued(ms(100))

    def busy(self) -> None:
        self.reception._busy_until = self.clock.at + BUSY_FOR


def run(test: Callable[[Bench], None]) -> None:
    async def with_bench() -> None:
        bench = Bench()
        test(bench)
        await asyncio.sleep(0)
        bench.reception.close()

    uvloop.run(with_bench())


def test_nothing_is_refused_while_the_server_keeps_up() -> None:
    def test(bench: Bench) -> None:
        assert not bench.reception.is_behind()
        assert bench.reception.refuses("m", bench.clock.at - ms(1000), ms(1)) is None

    run(test)


def test_the_longest_slo_of_late_counts_where_the_requests_own_is_not_known() -> None:
    def test(bench: Bench) -> None:
        bench.queue(int(ms(50) // SEED_COST))
        bench.reception.note_slo("m", ms(100))
        bench.reception.note_slo("m", ms(400))
        assert bench.reception.refuses("m", bench.clock.at) is None  # 50 ms is less than three tenths of 400
        for _ in range(REMEMBERED_SLOS):
            bench.reception.note_slo("m", ms(100))
        assert bench.reception.refuses("m", bench.clock.at) is not None
        assert bench.reception.refuses("m", bench.clock.at, ms(400)) is None

    run(test)


def test_a_model_without_requests_has_its_default_slo() -> None:
    def test(bench: Bench) -> None:
        bench.queue(int(ms(50) // SEED_COST))
        assert bench.reception.refuses("m", bench.clock.at) is None
        assert bench.reception.refuses("quick", bench.clock.at) is not None

    run(test)


def test_refusals_are_reported_once_a_turn_and_names_without_an_answer_together() -> None:
    async def test() -> None:
        bench = Bench()
        bench.queue(2_000)
        bench.reception.note_slo("m", None)
        for name in ("m", "m", "x", "y"):
            assert bench.reception.refuses(name, bench.clock.at) is not None
        assert bench.shed == []
        await asyncio.sleep(0)
        assert bench.shed == [{"m": 2, "": 2}]
        bench.reception.close()

    uvloop.run(test())


def test_only_large_requests_are_throttled_and_only_while_the_server_is_busy() -> None:
    def test(bench: Bench) -> None:
        for _ in range(1_000):
            bench.throttle.note(bench.clock.at, "m", admitted=False, slo=ms(100), retry_after=ms(7))
        assert all(bench.reception.refuses("m", bench.clock.at, ms(100), large=True) is None for _ in range(50))
        bench.busy()
        assert all(bench.reception.refuses("m", bench.clock.at, ms(100)) is None for _ in range(50))
        shed = [bench.reception.refuses("m", bench.clock.at, ms(100), large=True) for _ in range(50)]
        assert any(one is not None and one.wait is None and one.retry_after == ms(7) for one in shed)

    run(test)


def test_a_call_with_less_time_left_than_answers_take_is_refused() -> None:
    def test(bench: Bench) -> None:
        for _ in range(1_000):
            bench.reception.note_latency(ms(20))
        assert bench.reception.refuses_late(ms(31)) is None
        assert bench.reception.refuses_late(ms(20)) is not None

    run(test)


def test_the_table_of_slos_has_a_limit() -> None:
    def test(bench: Bench) -> None:
        for number in range(MAX_MODELS + 10):
            bench.reception.note_slo(f"m{number}", ms(1))
        assert len(bench.reception._answers) == MAX_MODELS
        assert bench.reception.has_answered("m0")
        assert not bench.reception.has_answered(f"m{MAX_MODELS}")

    run(test)


def test_the_longest_slo_is_forgotten_when_enough_others_came_since() -> None:
    def test(bench: Bench) -> None:
        for slo in (ms(400), *(ms(i) for i in range(1, REMEMBERED_SLOS))):
            bench.reception.note_slo("m", slo)
        assert bench.reception._slo("m") == ms(400)
        bench.reception.note_slo("m", ms(7))
        assert bench.reception._slo("m") == ms(REMEMBERED_SLOS - 1)

    run(test)


def test_a_check_does_not_count_a_refusal() -> None:
    async def test() -> None:
        bench = Bench()
        bench.queue(2_000)
        assert bench.reception.check(bench.clock.at, "m", bench.clock.at, ms(100)) is not None
        await asyncio.sleep(0)
        assert bench.shed == []
        bench.reception.close()

    uvloop.run(test())


def test_a_copy_of_a_model_has_the_default_slo_of_the_model() -> None:
    async def test() -> None:
        copies: dict[str, Any] = {"quick-2": SimpleNamespace(info=SimpleNamespace(load="quick"))}
        config = ControllerConfig(default_slo=ms(500), model_slos={"quick": ms(20)})
        loop = asyncio.get_running_loop()
        reception = Reception(loop, SetClock(), config, lambda _: None, lambda _: None, Throttle(), copies.get)
        assert reception.default_slo("quick-2") == ms(20)
        assert reception.default_slo("other") == ms(500)
        reception.close()

    uvloop.run(test())


def test_a_request_with_less_time_than_its_model_takes_is_refused_while_the_server_is_busy() -> None:
    def test(bench: Bench) -> None:
        for _ in range(1_000):
            bench.reception.note_slo("m", ms(100), ms(40))
            bench.reception.note_slo("slow", ms(1000), ms(800))
        assert bench.reception.refuses("m", bench.clock.at, ms(5)) is None
        bench.busy()
        assert bench.reception.refuses("m", bench.clock.at, ms(5)) is not None
        assert bench.reception.refuses("m", bench.clock.at, ms(50)) is None
        assert bench.reception.refuses("another", bench.clock.at, ms(5)) is None

    run(test)
