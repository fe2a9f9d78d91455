"""Refusals that apply to several requests of one turn of the event loop."""

from types import SimpleNamespace
from typing import Any, cast

from clockwork.controller.shedding import MAX_URGENT_SLO, Shed, Shedder
from clockwork.host.verdicts import Verdicts
from clockwork.net.arrival import Arrivals
from clockwork.units import ms

NOW = 10**12
KEY = ("m", "")
SLO = ms(100)
FASTEST = ms(10)


class Kept:
    """A refusal of a request that arrived 3 ms ago, while 500 urgent requests and 20 patient requests wait."""

    def __init__(self, slo: int = SLO) -> None:
        self.shedder = Shedder()
        self.shedder.urgent, self.shedder.patient = 500, 20
        self.turns = SimpleNamespace(turn=1)
        self.verdicts = Verdicts(self.shedder, cast(Arrivals, self.turns))
        self.verdicts.keep(NOW, KEY, NOW - ms(3), slo, Shed(ms(103), ms(100)), FASTEST)

    def find(self, *, later: int = 0, key: Any = KEY, arrival: int = NOW - ms(3), slo: int = SLO) -> Shed | None:
        return self.verdicts.find(NOW + later, key, arrival, slo)


def test_requests_that_are_no_better_off_get_the_refusal_with_their_own_wait() -> None:
    kept = Kept()
    first, second = kept.find(), kept.find(later=ms(2), arrival=NOW - ms(4), slo=FASTEST)
    assert first == Shed(ms(103), ms(100))
    assert second == Shed(ms(106), ms(100))
    assert first is not kept.find(), "the host sets the id of each refusal"


def test_other_requests_need_a_decision() -> None:
    kept = Kept()
    assert kept.find(slo=SLO + 1) is None, "a longer SLO"
    assert kept.find(slo=FASTEST - 1) is None, "an SLO that no device can meet"
    assert kept.find(arrival=NOW - ms(3) + 1) is None, "a later arrival"
    assert kept.find(key=("m", "2")) is None
    assert kept.find() is not None


def test_a_refusal_is_forgotten_when_the_queue_becomes_shorter_or_faster_or_the_turn_ends() -> None:
    kept = Kept()
    kept.shedder.urgent += 1
    assert kept.find() is not None
    kept.shedder.urgent -= 2
    assert kept.find() is None
    kept.shedder.urgent += 1
    kept.shedder.patient -= 1
    assert kept.find() is None
    kept.shedder.patient += 1
    assert kept.find() is not None
    kept.shedder.cost -= 1
    assert kept.find() is None
    kept.shedder.cost += 1
    kept.turns.turn += 1
    assert kept.find() is None
    kept.turns.turn -= 1
    assert kept.find() is None


def test_refusals_of_patient_requests_and_without_a_retry_time_are_not_kept() -> None:
    assert Kept(slo=MAX_URGENT_SLO + 1).find() is None
    kept = Kept()
    kept.verdicts.keep(NOW, ("n", ""), NOW, SLO, Shed(None, None, ms(500)), ms(500))
    assert kept.find(key=("n", ""), arrival=NOW) is None
