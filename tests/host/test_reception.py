"""Refusals before a front end parses a request."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import uvloop

from builders import infer_request
from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import RequestsShed
from clockwork.controller.shedding import SEED_COST
from clockwork.controller.throttling import Throttle
from clockwork.host.reception import BUSY_FOR, MAX_MODELS, REMEMBERED_SLOS, Reception
from clockwork.units import Nanos, ms


def the_model(name: str, version: str) -> Any:
    """Return a stand-in for the load that serves a model and version. The model ``slow`` takes 50 ms."""
    return SimpleNamespace(
        name=name,
        info=SimpleNamespace(load=name),
        profiles={"cpu": None},
        infer_estimate=lambda rows: ms(50) if name == "slow" else 1,
    )


class SetClock:
    def __init__(self) -> None:
        self.at: Nanos = 10**12

    def now(self) -> Nanos:
        return self.at


class ReceptionFixture:
    """A reception, and the refusals and loads that it reports."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.shed: list[RequestsShed] = []
        self.loads: list[float] = []
        self.throttle = Throttle()
        config = ControllerConfig(default_slo=ms(500), model_slos={"quick": ms(20)})
        loop = asyncio.get_running_loop()
        self.reception = Reception(
            loop, self.clock, config, self.shed.append, self.loads.append, self.throttle, the_model
        )

    def queue(self, count: int) -> None:
        for _ in range(count):
            self.reception.inbox.shedder.queued(ms(100))

    def busy(self) -> None:
        self.reception._busy_until = self.clock.at + BUSY_FOR


def run(test: Callable[[ReceptionFixture], None]) -> None:
    async def with_fixture() -> None:
        fixture = ReceptionFixture()
        test(fixture)
        await asyncio.sleep(0)
        fixture.reception.close()

    uvloop.run(with_fixture())


def test_no_request_is_refused_while_the_server_is_fast_enough() -> None:
    def test(fixture: ReceptionFixture) -> None:
        assert not fixture.reception.is_behind()
        assert fixture.reception.refuses("m", fixture.clock.at - ms(1000), ms(1)) is None

    run(test)


def test_the_longest_recent_slo_counts_while_the_request_s_own_is_unknown() -> None:
    def test(fixture: ReceptionFixture) -> None:
        fixture.queue(int(ms(50) // SEED_COST))
        fixture.reception.note_slo("m", ms(100))
        fixture.reception.note_slo("m", ms(400))
        assert fixture.reception.refuses("m", fixture.clock.at) is None  # 50 ms is less than three tenths of 400
        for _ in range(REMEMBERED_SLOS):
            fixture.reception.note_slo("m", ms(100))
        assert fixture.reception.refuses("m", fixture.clock.at) is not None
        assert fixture.reception.refuses("m", fixture.clock.at, ms(400)) is None

    run(test)


def test_requests_of_one_turn_for_a_model_need_one_decision() -> None:
    def test(fixture: ReceptionFixture) -> None:
        fixture.queue(2_000)
        reception, shedder = fixture.reception, fixture.reception.inbox.shedder
        decide, decisions = shedder.refuses, []

        def counting(*args: Any) -> Any:
            decisions.append(args)
            return decide(*args)

        shedder.refuses = counting  # type: ignore[assignment, method-assign]
        sheds = [
            reception.refuses_native(infer_request(number, slo=ms(100) - number), fixture.clock.at)
            for number in range(100)
        ]
        assert len({shed.request_id for shed in sheds if shed is not None}) == 100
        assert len(decisions) == 1
        assert reception.refuses_native(infer_request(100, slo=ms(101)), fixture.clock.at) is not None
        assert len(decisions) == 2, "the SLO is longer"

    run(test)


def test_a_model_without_requests_has_its_default_slo() -> None:
    def test(fixture: ReceptionFixture) -> None:
        fixture.queue(int(ms(50) // SEED_COST))
        assert fixture.reception.refuses("m", fixture.clock.at) is None
        assert fixture.reception.refuses("quick", fixture.clock.at) is not None

    run(test)


def test_some_refusals_are_recorded_with_their_ids_and_no_invented_names() -> None:
    async def test() -> None:
        fixture = ReceptionFixture()
        fixture.queue(2_000)
        fixture.reception.note_slo("m", None)
        now = fixture.clock.at
        sheds = [fixture.reception.refuses(name, now - ms(3), ms(10)) for name in ("m", "x")]
        await asyncio.sleep(0)
        (event,) = fixture.shed
        for shed, recorded, model in zip(sheds, event.sampled, ("m", ""), strict=True):
            assert shed is not None
            assert recorded.request_id == shed.request_id != ""
            assert (recorded.model, recorded.refused, recorded.waited, recorded.slo) == (model, now, ms(3), ms(10))
            assert (recorded.message, recorded.retry_after) == (shed.message, shed.retry_after)
        for _ in range(1000):
            fixture.reception.refuses("m", now)
        await asyncio.sleep(0)
        assert len(fixture.shed[1].sampled) < 110
        assert fixture.shed[1].by_model == {("m", ""): 1000}
        fixture.reception.close()

    uvloop.run(test())


def test_refusals_are_reported_once_a_turn_and_unknown_names_together() -> None:
    async def test() -> None:
        fixture = ReceptionFixture()
        fixture.queue(2_000)
        fixture.reception.note_slo("m", None)
        for name in ("m", "m", "x", "y"):
            assert fixture.reception.refuses(name, fixture.clock.at) is not None
        assert fixture.shed == []
        await asyncio.sleep(0)
        assert [event.by_model for event in fixture.shed] == [{("m", ""): 2, ("", ""): 2}]
        fixture.reception.close()

    uvloop.run(test())


def test_only_large_requests_are_throttled_and_only_while_the_server_is_busy() -> None:
    def test(fixture: ReceptionFixture) -> None:
        for _ in range(1_000):
            fixture.throttle.note(fixture.clock.at, "m", admitted=False, slo=ms(100), retry_after=ms(7))
        assert all(fixture.reception.refuses("m", fixture.clock.at, ms(100), large=True) is None for _ in range(50))
        fixture.busy()
        assert all(fixture.reception.refuses("m", fixture.clock.at, ms(100)) is None for _ in range(50))
        shed = [fixture.reception.refuses("m", fixture.clock.at, ms(100), large=True) for _ in range(50)]
        assert any(one is not None and one.wait is None and one.retry_after == ms(7) for one in shed)

    run(test)


def test_the_table_of_slos_has_a_limit() -> None:
    def test(fixture: ReceptionFixture) -> None:
        for number in range(MAX_MODELS + 10):
            fixture.reception.note_slo(f"m{number}", ms(1))
        assert len(fixture.reception._answers) == MAX_MODELS
        assert not fixture.reception.has_answered("m0"), "the oldest is forgotten"
        assert fixture.reception.has_answered(f"m{MAX_MODELS}")

    run(test)


def test_the_longest_slo_is_forgotten_after_enough_other_requests() -> None:
    def test(fixture: ReceptionFixture) -> None:
        for slo in (ms(400), *(ms(i) for i in range(1, REMEMBERED_SLOS))):
            fixture.reception.note_slo("m", slo)
        assert fixture.reception._slo("m", "") == ms(400)
        fixture.reception.note_slo("m", ms(7))
        assert fixture.reception._slo("m", "") == ms(REMEMBERED_SLOS - 1)

    run(test)


def test_a_check_does_not_count_a_refusal() -> None:
    async def test() -> None:
        fixture = ReceptionFixture()
        fixture.queue(2_000)
        assert fixture.reception.check(fixture.clock.at, "m", fixture.clock.at, ms(100)) is not None
        await asyncio.sleep(0)
        assert fixture.shed == []
        fixture.reception.close()

    uvloop.run(test())


def test_a_copy_of_a_model_has_the_default_slo_of_the_model() -> None:
    copies: dict[str, Any] = {"quick-2": SimpleNamespace(info=SimpleNamespace(load="quick"))}

    def find(name: str, version: str) -> Any:
        return copies.get(name)

    async def test() -> None:
        config = ControllerConfig(default_slo=ms(500), model_slos={"quick": ms(20)})
        loop = asyncio.get_running_loop()
        reception = Reception(loop, SetClock(), config, lambda _: None, lambda _: None, Throttle(), find)
        assert reception.default_slo("quick-2") == ms(20)
        assert reception.default_slo("other") == ms(500)
        reception.close()

    uvloop.run(test())


def test_a_request_with_less_time_than_its_model_takes_is_refused_while_the_server_is_busy() -> None:
    def test(fixture: ReceptionFixture) -> None:
        for _ in range(1_000):
            fixture.reception.note_slo("m", ms(100), ms(40))
            fixture.reception.note_slo("slow", ms(1000), ms(800))
        assert fixture.reception.refuses("m", fixture.clock.at, ms(5)) is None
        fixture.busy()
        assert fixture.reception.refuses("m", fixture.clock.at, ms(5)) is not None
        assert fixture.reception.refuses("m", fixture.clock.at, ms(50)) is None
        assert fixture.reception.refuses("another", fixture.clock.at, ms(5)) is None

    run(test)


def test_a_request_refused_early_has_no_retry_time_if_no_device_can_meet_its_slo() -> None:
    def test(fixture: ReceptionFixture) -> None:
        fixture.queue(ms(100) // SEED_COST)
        hopeless = fixture.reception.refuses("slow", fixture.clock.at, ms(49))
        assert hopeless is not None
        assert hopeless.retry_after is None
        assert hopeless.message == "no device can meet this SLO: the fastest needs 50 ms"
        assert hopeless.response(infer_request(7)).retry_after is None
        for slo in (ms(51), None):
            other = fixture.reception.refuses("slow", fixture.clock.at - ms(500), slo)
            assert other is not None
            assert other.retry_after is not None, "waiting helps, or the SLO is not known yet"

    run(test)
